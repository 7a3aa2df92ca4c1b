"""A table as it is shown: headings, rows, cells of text, the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

#: An en dash that no line breaks at.
RANGE = "\u2060–\u2060"


@dataclass(frozen=True)
class Heading:
    """Heading of a column, and a smaller second line."""

    title: str
    detail: str = ""


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        text: The value.
        details: Smaller lines below it.
        best: Whether nothing in this column is better and something is worse; the reference takes no part.
        warn: Whether the last detail is bad news (slower than dense).
    """

    text: str
    details: tuple[str, ...] = ()
    best: bool = False
    warn: bool = False


@dataclass(frozen=True)
class GridRow:
    """One row: its name, what it is, one cell per column, and the heading it stands under."""

    name: str
    description: str
    cells: tuple[Cell, ...]
    is_reference: bool = False
    group: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: What it shows.
        first: Heading of the names.
        headings: One per column.
        rows: Rows of one group follow each other.
    """

    caption: str
    first: str
    headings: tuple[Heading, ...]
    rows: tuple[GridRow, ...]

    @property
    def groups(self) -> Iterator[tuple[str, tuple[GridRow, ...]]]:
        """Heading of a group, and its rows."""
        for group, rows in groupby(self.rows, key=lambda row: row.group):
            yield group, tuple(rows)


def direction(higher_is_better: bool | None) -> str:
    """Say which way is better; nothing where neither is."""
    if higher_is_better is None:
        return ""
    return "higher is better" if higher_is_better else "lower is better"


def best_text(entries: Sequence[tuple[float | None, str]], higher_is_better: bool | None) -> str | None:
    """Return the text of the best value; None where nothing is better than anything else.

    Values are compared as written, so that what looks equal is marked alike.

    Args:
        entries: Value and its text; missing values and those that are not finite take no part.
        higher_is_better: The direction.
    """
    known = [(value, text) for value, text in entries if value is not None and math.isfinite(value)]
    if higher_is_better is None or len({text for _, text in known}) < 2:
        return None
    return (max if higher_is_better else min)(known, key=lambda entry: entry[0])[1]
