"""The command: one table of the paper, made again from start to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diff_es.errors import InputError
from diff_es.registry import suggest
from diff_es.report import write_report
from diff_es.reproduce.expect import Expectation, expect
from diff_es.reproduce.files import write_files
from diff_es.reproduce.make import make
from diff_es.reproduce.result import TableResult
from diff_es.reproduce.scale import Scale
from diff_es.reproduce.show import table_report
from diff_es.reproduce.table import tables
from diff_es.reproduce.workspace import Workspace
from diff_es.run.judges import known_judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diff_es.evaluation import Judge

SCALES = ("small", "paper")


@dataclass(frozen=True)
class Reproduced:
    """What `reproduce` leaves behind.

    Attributes:
        result: The record, also written as `result.json`.
        folder: Where the table lies, as CSV, Markdown, PNG, JSON and HTML.
        report: The HTML report.
    """

    result: TableResult
    folder: Path
    report: Path


def reproduce(  # noqa: PLR0913 (the options of the command)
    name: str,
    output: Path,
    *,
    scale: str | Scale = "small",
    device: str = "auto",
    judge: Judge | None = None,
    changes: Mapping[str, Any] | None = None,
    command: str = "",
    announce: Callable[[Expectation], None] = lambda _: None,
) -> Reproduced:
    """Make a table or figure of the paper again; one that was stopped goes on.

    Args:
        name: "table1", …, "figure4" (see `tables`).
        output: Where all tables are kept; tables of one scale share their work there.
        scale: "small" (the shipped model), "paper" (the paper's model, data and settings), or one of your own.
        device: "auto", "cpu", "cuda", …
        judge: What images are judged by; by default the one that is known for the model.
        changes: What else changes in every recipe ({"calibration": {"data": "/data/imagenet"}}).
        command: The command line, for the record.
        announce: Called with what it will take, before anything is made.

    Raises:
        InputError: no such table or scale, or the model or its data cannot be had.
    """
    settings = (scale if isinstance(scale, Scale) else _shipped_scale(scale)).changed(changes or {})
    table = tables[name].at(settings.name)
    model = table.rows[0].recipes(settings)[0].model
    workspace = Workspace(output / "work" / settings.name, judge or _known_judge(model), device)
    announce(expect(table, settings, workspace))
    result = make(table, settings, workspace, command or f"diff-es reproduce {name} --scale {settings.name}")
    folder = output / name / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    result.write(folder / "result.json")
    write_files(folder, table, result)
    report = write_report(folder, table_report(table, settings, result, workspace))
    return Reproduced(result, folder, report)


def _known_judge(model: str) -> Judge:
    judge = known_judge(model)
    if judge is None:
        raise InputError(
            f"No judge is known for model={model}: give ADM's reference batch and the weights of Inception-v3 "
            "(--reference and --inception-weights), or a judge of your own."
        )
    return judge


def _shipped_scale(name: str) -> Scale:
    if name not in SCALES:
        raise InputError(f"scale={name!r}: {suggest(name, SCALES)}")
    return Scale.load(name)
