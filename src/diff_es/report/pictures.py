"""All figures of a report: drawn once for files and light pages, once more for dark pages."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from diff_es.artifacts import slugs, write_bytes
from diff_es.progress import track
from diff_es.report.headline import main_metric
from diff_es.report.image_figures import draw_images
from diff_es.report.latency import SCOPE_NAMES, main_latency, timed
from diff_es.report.plot_figures import describe_plot, draw_plot
from diff_es.report.result_figures import draw_fitness, draw_parameters, draw_results, draw_speedups
from diff_es.report.schedule_figures import draw_overview, draw_schedule
from diff_es.report.theme import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from pathlib import Path

    from diff_es.evaluation import Evaluation
    from diff_es.report.content import FitnessPoint, Gallery
    from diff_es.report.table_content import Plot
    from diff_es.schedule import Levels, PruningSchedule

#: Searches in one plot, and schedules in one overview; more are not told apart.
_MOST_SEARCHES = 5
_MOST_STRIPS = 12


@dataclass(frozen=True)
class Picture:
    """A figure for light and for dark pages, as data: addresses, with its text alternative and its caption."""

    light: str
    dark: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Job:
    """A figure to be drawn: its file name, how to draw it, its text alternative, its caption."""

    file: str
    draw: Callable[[Theme], bytes]
    alt: str
    caption: str = ""


def draw_all(jobs: Mapping[str, tuple[Job, ...]], gallery: Gallery, folder: Path) -> dict[str, tuple[Picture, ...]]:
    """Draw every figure, and write each to `folder` as a PNG file.

    Args:
        jobs: Part of the report → its figures.
        gallery: Its images are written as one picture; the page holds them as they are.
        folder: Where the files go.
    """
    if gallery.images:
        write_bytes(folder / "images.png", draw_images(gallery.images, gallery.labels, LIGHT))
    drawn = {part: [_draw(job, folder) for job in track(own, f"Drawing {part}")] for part, own in jobs.items() if own}
    return {part: tuple(drawn.get(part, ())) for part in jobs}


def evaluation_jobs(evaluation: Evaluation) -> dict[str, tuple[Job, ...]]:
    """The figures of an evaluation: "results", "speedups" and "parameters"."""
    metric, at = main_metric(evaluation), main_latency(evaluation)
    results = Job(
        "quality-and-latency.png",
        partial(draw_results, evaluation, metric, at),
        "Bars of quality and of latency for each schedule; the tables hold the values.",
        "Whiskers run from the 10th to the 90th percentile. A speed-up is a measured latency, never a sparsity.",
    )
    parameters = Job(
        "parameters.png",
        partial(draw_parameters, evaluation),
        f"Share of the parameters that each stage uses, in sampling order. {_parameter_words(evaluation)}",
        "Share of the dense denoiser’s parameters that one call uses, stage by stage.",
    )
    used = any(schedule.cost.parameters_per_stage for schedule in evaluation.schedules)
    return {
        "results": (results,) if metric is not None or at is not None else (),
        "speedups": tuple(_speedup_jobs(evaluation)),
        "parameters": (parameters,) if used else (),
    }


def schedule_jobs(schedules: Mapping[str, PruningSchedule]) -> dict[str, tuple[Job, ...]]:
    """The figures of schedules: "overview", and "schedules" with one panel for each."""
    by_stages: dict[int, list[str]] = {}
    for name, schedule in schedules.items():
        by_stages.setdefault(schedule.num_stages, []).append(name)
    parts = [part for names in by_stages.values() for part in _chunks(names, _MOST_STRIPS)]
    return {
        "overview": tuple(_overview_job(index, {n: schedules[n] for n in part}) for index, part in enumerate(parts)),
        "schedules": tuple(_panel_jobs(schedules)),
    }


def fitness_jobs(history: Mapping[str, tuple[FitnessPoint, ...]], label: str) -> tuple[Job, ...]:
    """The course of the searches, a few to a figure."""
    jobs = []
    for index, names in enumerate(_chunks(list(history), _MOST_SEARCHES)):
        own = {name: history[name] for name in names}
        ends = (f"{name} from {p[0].best:.4f} to {p[-1].best:.4f}" for name, p in own.items())
        alt = f"Fitness of the survivors over the generations; the best goes, for {'; for '.join(ends)}."
        jobs.append(Job(_numbered("fitness", index), partial(draw_fitness, own, label), alt))
    return tuple(jobs)


def plot_jobs(plots: tuple[Plot, ...]) -> tuple[Job, ...]:
    """The plots of a table."""
    files = slugs(plot.title for plot in plots)
    return tuple(
        Job(
            f"plot-{file}.png",
            partial(draw_plot, plot),
            describe_plot(plot),
            ". ".join(filter(None, (plot.title, plot.caption))),
        )
        for file, plot in zip(files, plots, strict=True)
    )


def _draw(job: Job, folder: Path) -> Picture:
    light = job.draw(LIGHT)
    write_bytes(folder / job.file, light)
    return Picture(_address(light), _address(job.draw(DARK)), job.alt, job.caption)


def _speedup_jobs(evaluation: Evaluation) -> Iterator[Job]:
    """One figure for each scope that was timed at two batch sizes or more."""
    entries = timed(evaluation)
    for scope in SCOPE_NAMES:
        own = sorted((entry for entry in entries if entry.scope == scope), key=lambda entry: entry.batch_size)
        if len(own) > 1 and len(evaluation.schedules) > 1:
            yield Job(
                f"speedup-{scope}.png",
                partial(draw_speedups, evaluation, own),
                f"Speed-up over batch sizes, {SCOPE_NAMES[scope].lower()}; the latency table holds the values.",
                f"{SCOPE_NAMES[scope]}: how many times as fast as dense, by the medians. Below the line at 1 a "
                "schedule is slower than dense. Whiskers and the grey band (dense) run from p10 to p90.",
            )


def _overview_job(index: int, schedules: dict[str, PruningSchedule]) -> Job:
    strips = (f"{name}: {_words(schedule.levels)}" for name, schedule in schedules.items())
    alt = f"Level of each stage, in sampling order. {'; '.join(strips)}."
    return Job(_numbered("schedules", index), partial(draw_overview, schedules), alt)


def _panel_jobs(schedules: Mapping[str, PruningSchedule]) -> Iterator[Job]:
    for slug, (name, schedule) in zip(slugs(schedules), schedules.items(), strict=True):
        alt = (
            f"{name}: bars of the stage levels {_words(schedule.levels)}, in sampling order, above a map of the "
            f"levels of {len(schedule.layers)} layers in {schedule.num_stages} stages."
        )
        yield Job(f"schedule-{slug}.png", partial(draw_schedule, schedule), alt, name)


def _parameter_words(evaluation: Evaluation) -> str:
    shares = (
        f"{schedule.name}: {' '.join(f'{used / schedule.cost.parameters:.0%}' for used in reversed(per_stage))}"
        for schedule in evaluation.schedules
        if (per_stage := schedule.cost.parameters_per_stage)
    )
    return f"{'; '.join(shares)}."


def _chunks(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _numbered(name: str, index: int) -> str:
    return f"{name}.png" if index == 0 else f"{name}-{index + 1}.png"


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _words(levels: Levels) -> str:
    """Levels in sampling order, as the figures show them."""
    return " ".join(map(str, reversed(levels)))
