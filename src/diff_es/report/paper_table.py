"""A re-created table as it is shown: ours, the paper's below it, and one verdict for each claim."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.report.grid import Cell, Grid, GridRow, Heading, best_text, direction
from diff_es.report.metric_names import number, three_digits
from diff_es.report.table import interval_text
from diff_es.report.table_content import Value

if TYPE_CHECKING:
    from diff_es.report.table_content import Claim, TableColumn, TableReport, TableRow, Verdict

#: A sign for each verdict, so that it does not hang on the colour.
_SIGNS: dict[Verdict, str] = {"holds": "✓", "does not hold": "✗", "cannot be told apart": "≈"}


_MANY: dict[Verdict, str] = {
    "holds": "hold",
    "does not hold": "do not hold",
    "cannot be told apart": "cannot be told apart",
}


@dataclass(frozen=True)
class ShownClaim:
    """A claim in words.

    Attributes:
        claim: The claim.
        sign: Of its verdict.
        kind: Its verdict as a class of the style sheet.
        paper: The paper's numbers; may be empty.
        ours: Ours.
        advantage: How much better A is, with its interval.
    """

    claim: Claim
    sign: str
    kind: str
    paper: str
    ours: str
    advantage: str


def table_grid(report: TableReport) -> Grid:
    """Our values with their intervals, the paper's below; the best of ours is marked within each group."""
    headings = tuple(Heading(column.title, _heading_detail(column)) for column in report.columns)
    groups: dict[str, list[TableRow]] = {}
    for row in report.rows:
        groups.setdefault(row.group, []).append(row)
    rows = []
    for group, members in groups.items():
        bests = [_best(column, members) for column in report.columns]
        for row in members:
            cells = tuple(_cell(row, column, best) for column, best in zip(report.columns, bests, strict=True))
            rows.append(GridRow(row.name, row.description, cells, row.is_reference, group))
    return Grid(report.title, "Method", headings, tuple(rows))


def show_claims(report: TableReport) -> tuple[ShownClaim, ...]:
    """Every claim in words."""
    return tuple(_show(claim) for claim in report.claims)


def verdicts(report: TableReport) -> str:
    """One sentence: how many of the paper's claims hold here."""
    if not report.claims:
        return "No claim of the paper is tested here."
    counts = Counter(claim.verdict for claim in report.claims)
    parts = (f"{counts[name]} {name if counts[name] == 1 else many}" for name, many in _MANY.items() if counts[name])
    return f"Of the paper’s claims that are tested here, {', '.join(parts)}."


def _heading_detail(column: TableColumn) -> str:
    paper = f"paper: {column.paper_title}" if column.paper_title else ""
    return "; ".join(filter(None, (direction(column.higher_is_better), paper)))


def _cell(row: TableRow, column: TableColumn, best: str | None) -> Cell:
    value = row.values.get(column.key, Value())
    text = _text(value, column)
    details = [interval_text(value.interval, column.form, column.interval_title)] if value.interval else []
    details += [value.note] if value.note else []
    if value.paper is not None:
        details.append(f"paper: {value.paper:g}")
    return Cell(text, tuple(details), not row.is_reference and text == best)


def _best(column: TableColumn, members: list[TableRow]) -> str | None:
    values = [row.values.get(column.key, Value()) for row in members if not row.is_reference]
    return best_text([(value.ours, _text(value, column)) for value in values], column.higher_is_better)


def _text(value: Value, column: TableColumn) -> str:
    return number(value.ours, column.form, column.unit)


def _show(claim: Claim) -> ShownClaim:
    paper = _pair(claim, claim.paper, claim.paper_metric) if claim.paper else ""
    spread = claim.interval and interval_text(claim.interval, three_digits(*claim.interval), claim.interval_title)
    return ShownClaim(
        claim=claim,
        sign=_SIGNS[claim.verdict],
        kind=claim.verdict.replace(" ", "-"),
        paper=paper,
        ours=_pair(claim, claim.ours, claim.metric),
        advantage=f"{number(claim.advantage, '+' + three_digits(claim.advantage))}, {spread or 'exact'}",
    )


def _pair(claim: Claim, values: tuple[float, float], metric: str) -> str:
    better, worse = (number(value, ".4g") for value in values)
    return f"{claim.better} {better}, {claim.worse} {worse}" + (f" ({metric})" if metric else "")
