"""All figures of a report: drawn once for files and light pages, once more for dark pages."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from diff_es.artifacts import write_bytes
from diff_es.progress import track
from diff_es.report.image_figures import draw_images, pixels_png, strip
from diff_es.report.result_figures import draw_fitness, draw_quality_and_latency
from diff_es.report.schedule_figures import draw_overview, draw_schedule
from diff_es.report.theme import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from pathlib import Path

    from diff_es.report.content import ReportContent
    from diff_es.schedule import Levels

#: Images side by side in one strip; more would be too small on a phone.
_COLUMNS = 10


@dataclass(frozen=True)
class Picture:
    """A figure for light and for dark pages, as data: addresses, with its text alternative."""

    light: str
    dark: str
    alt: str


@dataclass(frozen=True)
class Strip:
    """One row of images: the model's name, the pixels as a data: address, the text alternative."""

    name: str
    address: str
    alt: str


@dataclass(frozen=True)
class Sheet:
    """Some columns of the image grid: their names, and one strip per model."""

    columns: tuple[str, ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Pictures:
    """The figures of one report; None or empty where there is nothing to show."""

    results: Picture
    overview: Picture | None
    schedules: Mapping[str, Picture]
    fitness: Picture | None
    sheets: tuple[Sheet, ...]


@dataclass(frozen=True)
class _Job:
    """A figure to be drawn: its file name, how to draw it, its text alternative."""

    file: str
    draw: Callable[[Theme], bytes]
    alt: str

    def run(self, folder: Path) -> Picture:
        light = self.draw(LIGHT)
        write_bytes(folder / self.file, light)
        return Picture(_address(light), _address(self.draw(DARK)), self.alt)


def draw_all(content: ReportContent, folder: Path) -> Pictures:
    """Draw every figure that there is something to show for, and write each to `folder` as a PNG file."""
    if content.images:
        write_bytes(folder / "images.png", draw_images(content.images, content.columns, LIGHT))
    single, schedules = _single_jobs(content), _schedule_jobs(content)
    jobs = track([*single.values(), *schedules.values()], "Drawing figures")
    drawn = iter([job.run(folder) for job in jobs])
    pictures = {key: next(drawn) for key in single}
    return Pictures(
        results=pictures["results"],
        overview=pictures.get("overview"),
        schedules={name: next(drawn) for name in schedules},
        fitness=pictures.get("fitness"),
        sheets=tuple(_sheets(content)),
    )


def _single_jobs(content: ReportContent) -> dict[str, _Job]:
    """The figures that show all schedules or all searches at once."""
    jobs = {
        "results": _Job(
            "quality-and-latency.png",
            partial(draw_quality_and_latency, content.evaluation),
            "Bars of SSIM to dense and of latency for each schedule; the comparison table holds the values.",
        )
    }
    if content.schedules:
        strips = (f"{name}: {_words(schedule.levels)}" for name, schedule in content.schedules.items())
        alt = f"Level of each stage, in sampling order. {'; '.join(strips)}."
        jobs["overview"] = _Job("schedules.png", partial(draw_overview, content.schedules), alt)
    if content.history:
        ends = (f"{name} from {p[0].best:.4f} to {p[-1].best:.4f}" for name, p in content.history.items())
        alt = f"Fitness of the survivors over the generations; the best goes, for {'; for '.join(ends)}."
        jobs["fitness"] = _Job("fitness.png", partial(draw_fitness, content.history, content.fitness), alt)
    return jobs


def _schedule_jobs(content: ReportContent) -> dict[str, _Job]:
    """One figure per schedule."""
    jobs = {}
    for slug, (name, schedule) in zip(slugs(content.schedules), content.schedules.items(), strict=True):
        alt = (
            f"{name}: bars of the stage levels {_words(schedule.levels)}, in sampling order, above a map of the "
            f"levels of {len(schedule.layers)} layers in {schedule.num_stages} stages."
        )
        jobs[name] = _Job(f"schedule-{slug}.png", partial(draw_schedule, schedule), alt)
    return jobs


def _sheets(content: ReportContent) -> Iterable[Sheet]:
    """Cut the image grid into sheets that a phone can show."""
    count = len(next(iter(content.images.values()), ()))
    for start in range(0, count, _COLUMNS):
        part = slice(start, min(start + _COLUMNS, count))
        shown = ", ".join(content.columns[part]) or f"seeds {part.start + 1} to {part.stop}"
        yield Sheet(
            content.columns[part],
            tuple(
                Strip(name, _address(pixels_png(strip(images[part]))), f"Images by {name}: {shown}.")
                for name, images in content.images.items()
            ),
        )


def slugs(names: Iterable[str]) -> list[str]:
    """Turn names into distinct file names of a–z, 0–9 and hyphens."""
    made: list[str] = []
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "unnamed"
        slug, count = base, 1
        while slug in made:
            count += 1
            slug = f"{base}-{count}"
        made.append(slug)
    return made


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _words(levels: Levels) -> str:
    """Levels in sampling order, as the figures show them."""
    return " ".join(map(str, reversed(levels)))
