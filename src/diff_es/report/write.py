"""The report itself: one HTML file that holds its style and its pictures."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from diff_es.artifacts import write_bytes
from diff_es.errors import ArtifactError
from diff_es.evaluation import describe_speedup, speedup
from diff_es.report import table
from diff_es.report.image_figures import count_broken
from diff_es.report.pictures import Pictures, draw_all

if TYPE_CHECKING:
    from pathlib import Path

    from diff_es.evaluation import Evaluation, ScheduleEvaluation
    from diff_es.report.content import ReportContent


def write_report(folder: Path, content: ReportContent) -> Path:
    """Write `report.html` and `figures/*.png` below `folder`, and return the path of the HTML file.

    The HTML file holds its style and its pictures: it needs no other file, no network and no script.

    Args:
        folder: The run directory; made if missing. An earlier report in it is replaced.
        content: What to show.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    figures = folder / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"Cannot write {figures}: {error.strerror or error}.") from error
    path = folder / "report.html"
    write_bytes(path, _render(content, draw_all(content, figures)).encode())
    return path


def _render(content: ReportContent, pictures: Pictures) -> str:
    """Fill the template; every name and text is escaped, and a variable it lacks is an error."""
    room = files("diff_es.report")
    loader = jinja2.DictLoader({"report.html": (room / "report.html").read_text(encoding="utf-8")})
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    evaluation = content.evaluation
    return environment.get_template("report.html").render(
        content=content,
        evaluation=evaluation,
        pictures=pictures,
        columns=table.columns(evaluation),
        rows=table.rows(evaluation),
        headline=headline(evaluation),
        broken=_broken(content),
        style=Markup((room / "report.css").read_text(encoding="utf-8")),
    )


def headline(evaluation: Evaluation) -> str:
    """One sentence on the schedule nearest to dense: what it keeps, what it saves, how fast it was measured."""
    schedule = _nearest_to_dense(evaluation)
    if schedule is None:
        return "No schedule was evaluated, only the dense model."
    words = describe_speedup(speedup(evaluation.dense.latency, schedule.latency))
    return (
        f"“{schedule.name}” stays nearest to dense: SSIM {table.number(schedule.ssim, '.3f')} with "
        f"{schedule.macs_ratio:.0%} of the multiply-adds, measured {words}."
    )


def _nearest_to_dense(evaluation: Evaluation) -> ScheduleEvaluation | None:
    pruned = [schedule for schedule in evaluation.schedules if not schedule.is_dense]
    # NaN compares false with everything; it loses.
    return max(pruned, key=lambda s: -math.inf if math.isnan(s.ssim) else s.ssim, default=None)


def _broken(content: ReportContent) -> tuple[str, ...]:
    """Say which rows hold images that could only be drawn in part."""
    counts = {name: count_broken(images) for name, images in content.images.items()}
    return tuple(
        f"{name}: {count} of {len(content.images[name])} images hold values that are not finite, drawn black."
        for name, count in counts.items()
        if count
    )
