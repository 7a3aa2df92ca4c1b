"""A table as CSV and as Markdown: every value beside the paper's own, and what became of its claims."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

from diff_es.artifacts import slugs, write_bytes
from diff_es.report.metric_names import three_digits
from diff_es.reproduce.claims import timed
from diff_es.reproduce.columns import PERCENTILES, Cell, Column, columns
from diff_es.reproduce.plots import plots

if TYPE_CHECKING:
    from pathlib import Path

    from diff_es.reproduce.result import ClaimResult, TableResult
    from diff_es.reproduce.table import Table


def write_files(folder: Path, table: Table, result: TableResult) -> None:
    """Write `table.csv`, `claims.csv` and `table.md`."""
    write_bytes(folder / "table.csv", _csv(_values(result)).encode())
    write_bytes(folder / "claims.csv", _csv(_claims(result)).encode())
    write_bytes(folder / "table.md", _markdown(table, result).encode())


def _values(result: TableResult) -> list[list[str]]:
    """One line per row and column."""
    lines = [["row", "sparsity", "metric", "ours", "low", "high", "paper_metric", "paper"]]
    for row in result.rows:
        for column in columns(result):
            cell = column.cell(row)
            low, high = cell.interval or (None, None)
            numbers = [_plain(value) for value in (cell.ours, low, high)]
            lines.append([row.name, f"{row.sparsity:g}", column.key, *numbers, column.paper, _plain(cell.paper)])
    return lines


def _claims(result: TableResult) -> list[list[str]]:
    heading = ["better", "worse", "metric", "ours_better", "ours_worse", "low", "high", "verdict"]
    lines = [[*heading, "paper_metric", "paper_better", "paper_worse"]]
    for claim in result.claims:
        low, high = claim.interval or (None, None)
        paper = claim.paper or (None, None)
        numbers = [_plain(value) for value in (*claim.ours, low, high)]
        theirs = [claim.paper_metric, *(_plain(value) for value in paper)]
        lines.append([claim.better, claim.worse, claim.metric, *numbers, claim.verdict, *theirs])
    return lines


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _markdown(table: Table, result: TableResult) -> str:
    shown = [column for column in columns(result) if any(column.cell(row).ours is not None for row in result.rows)]
    parts = [
        f"# {table.title}",
        table.introduction,
        result.protocol.text,
        "Ours with its 95 % interval; the paper's own number, of another model, data set and metric, in brackets.",
        _grid(["row", *(_heading(column) for column in shown)], [_line(row.name, shown, row) for row in result.rows]),
    ]
    drawn = [plot.title for plot in plots(result)]
    parts += [f"![{title}](figures/plot-{slug}.png)" for title, slug in zip(drawn, slugs(drawn), strict=True)]
    if result.memory:
        parts += ["## Memory", _memory(result)]
    if result.claims:
        parts += ["## What the paper claims, here", _claim_grid(result)]
        parts += [f"- **{_sentence(claim)}** {claim.examination}" for claim in result.claims if claim.examination]
    parts.append(f"Made by `{result.command}` on {result.environment.device}, {result.environment.threads} threads.")
    return "\n\n".join(parts) + "\n"


def _heading(column: Column) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
    return f"{column.title}{arrow}" + (f" [{column.paper}]" if column.paper else "")


def _line(name: str, shown: list[Column], row: object) -> list[str]:
    return [name, *(_written(column, column.cell(row)) for column in shown)]  # type: ignore[arg-type]


def _written(column: Column, cell: Cell) -> str:
    if cell.ours is None:
        return "-"
    text = format(cell.ours, column.form)
    if cell.interval and not any(map(math.isnan, cell.interval)):
        low, high = (format(end, column.form) for end in cell.interval)
        text += f" ({low} to {high})"
    return text + (f" [{cell.paper:.4g}]" if cell.paper is not None else "")


def _memory(result: TableResult) -> str:
    heading = ["setting", "live tensors, MB", "growth by loading, MB", "peak while generating, MB"]
    lines = [
        [name, *(f"{value / 1e6:.1f}" for value in (own.tensor_bytes, own.loading_bytes, own.peak_bytes))]
        for name, own in result.memory.items()
    ]
    return _grid(heading, lines)


def _claim_grid(result: TableResult) -> str:
    lines = []
    for claim in result.claims:
        low, high = claim.interval or (math.nan, math.nan)
        form = three_digits(low, high)
        spread = "" if math.isnan(low) else f"{low:{form}} to {high:{form}}"
        spread += f" ({PERCENTILES})" if spread and timed(claim) else ""
        theirs = f"{claim.paper[0]:.4g} against {claim.paper[1]:.4g}" if claim.paper else ""
        ours = f"{claim.ours[0]:.4g} against {claim.ours[1]:.4g}"
        lines.append([_sentence(claim), claim.paper_metric, theirs, claim.metric, ours, spread, claim.verdict])
    heading = ["claim", "paper's metric", "paper", "metric here", "ours", "advantage, 95 %", "verdict"]
    return _grid(heading, lines)


def _sentence(claim: ClaimResult) -> str:
    return f"{claim.better} before {claim.worse}"


def _grid(heading: list[str], lines: list[list[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
