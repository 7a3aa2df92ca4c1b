"""The report itself: one HTML file that holds its style, its script and its pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from diff_es.artifacts import write_bytes
from diff_es.errors import ArtifactError
from diff_es.report import paper_table, table
from diff_es.report.content import ReportContent
from diff_es.report.gallery import gallery_page
from diff_es.report.headline import headline
from diff_es.report.latency import timed
from diff_es.report.metric_names import metric_notes
from diff_es.report.pictures import draw_all, evaluation_jobs, fitness_jobs, plot_jobs, schedule_jobs

if TYPE_CHECKING:
    from pathlib import Path

    from diff_es.evaluation import Evaluation
    from diff_es.report.pictures import Job
    from diff_es.report.table_content import TableReport


def write_report(folder: Path, content: ReportContent | TableReport) -> Path:
    """Write `report.html` and `figures/*.png` below `folder`, and return the path of the HTML file.

    The HTML file holds its style, its pictures and a small script: it needs no other file and no network, and can be
    read without the script.

    Args:
        folder: The run directory; made if missing. An earlier report in it is replaced.
        content: What to show: a run, or a re-created table.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    figures = folder / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"Cannot write {figures}: {error.strerror or error}.") from error
    if isinstance(content, ReportContent):
        template, jobs, values = "run.html", _run_jobs(content), _run_values(content)
    else:
        template, jobs, values = "table.html", _table_jobs(content), _table_values(content)
    pictures = draw_all(jobs, content.gallery, figures)
    page = _render(template, {**values, "content": content, "pictures": pictures})
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path


def _run_jobs(content: ReportContent) -> dict[str, tuple[Job, ...]]:
    return {
        **evaluation_jobs(content.evaluation),
        **schedule_jobs(content.schedules),
        "fitness": fitness_jobs(content.history, content.fitness),
    }


def _table_jobs(content: TableReport) -> dict[str, tuple[Job, ...]]:
    # A map of layer levels shows nothing that its strip does not, where all layers of a stage have one level.
    telling = {
        name: schedule
        for name, schedule in content.schedules.items()
        if any(len(set(levels)) > 1 for levels in schedule.layer_levels)
    }
    return {
        **schedule_jobs(content.schedules),
        "schedules": schedule_jobs(telling)["schedules"],
        "fitness": fitness_jobs(content.history, content.fitness),
        "plots": plot_jobs(content.plots),
    }


def _run_values(content: ReportContent) -> dict[str, Any]:
    evaluation = content.evaluation
    return {
        "headline": headline(evaluation),
        "quality": table.quality_grid(evaluation),
        "cost": table.cost_grid(evaluation),
        "latency": table.latency_grid(evaluation),
        "measured": table.measurement_grid(evaluation),
        "metric_notes": metric_notes(tuple(own.metric for own in evaluation.dense.quality)),
        "gallery": gallery_page(content.gallery),
        "protocol": evaluation.protocol,
        "machine": evaluation.environment,
        "timing": _timing(evaluation),
    }


def _table_values(content: TableReport) -> dict[str, Any]:
    return {
        "headline": paper_table.verdicts(content),
        "grid": paper_table.table_grid(content),
        "claims": paper_table.show_claims(content),
        "has_paper": any(value.paper is not None for row in content.rows for value in row.values.values()),
        "metric_notes": metric_notes(tuple(column.key for column in content.columns)),
        "gallery": gallery_page(content.gallery),
        "protocol": content.protocol,
        "machine": content.environment,
        "measured": None,
        "timing": (),
    }


def _render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template; every name and text is escaped, and a variable it lacks is an error.

    Style and script are allowed by their hash alone, so that a name which slipped through would not be executed.
    """
    room = files("diff_es.report") / "templates"
    style, script = ((room / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diff_es.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **values,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _timing(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    """How the latencies were measured, in words."""
    entries = timed(evaluation)
    records = {evaluation.dense.cost.latency_of(at.batch_size, at.scope) for at in entries}
    sentences = dict.fromkeys(
        f"{record.repeats} timed runs after {record.warmup} to warm up, schedules taking turns; on {record.device}; "
        f"CPU threads of torch: {record.threads}"
        for record in records
    )
    modes = dict.fromkeys(schedule.cost.latency_mode for schedule in evaluation.schedules if schedule.cost.latency_mode)
    said = [f"pruned models in memory mode {mode}" for mode in modes]
    return tuple(("Latency", sentence) for sentence in (*sentences, *said))
