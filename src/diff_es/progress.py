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
    """Write a number of bytes in the units of memory limits: "2.4 GiB", "0.3 MiB", "12 KiB"."""
    if count >= 0.1 * 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 0.1 * 2**20 else f"{count / 2**10:.0f} KiB"


def in_time(seconds: float) -> str:
    """Write a number of seconds: "1.3 h", "4 min", "12 s"."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
