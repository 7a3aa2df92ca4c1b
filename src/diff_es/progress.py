"""Progress bars on long work, shown on a terminal, silent elsewhere; sizes and times in words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` with a bar on standard error; nothing is drawn where standard error is no terminal.

    Args:
        items: What to iterate over.
        description: What is being done, as a participle phrase ("Calibrating stages").
        total: Number of items where `items` has no length.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        yield from progress.track(items, description=description, total=total)


def in_bytes(count: float) -> str:
    """Write a number of bytes: "2.4 GB", "0.3 MB", "12 kB"."""
    if count >= 1e8:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def in_time(seconds: float) -> str:
    """Write a number of seconds: "1.3 h", "4 min", "12 s"."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
