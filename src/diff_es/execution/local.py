"""The executor without workers of their own: one task after the other, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from diff_es.execution.base import Done, Task

W = TypeVar("W")


class LocalExecutor(Generic[W]):
    """Runs tasks in the order in which they are given."""

    def __init__(self, worker: W) -> None:
        """Take the worker, which this process goes on to own."""
        self._worker = worker

    @property
    def count(self) -> int:
        """One: this process."""
        return 1

    def run(self, tasks: Sequence[Task[W]]) -> Iterator[Done[W]]:
        """Yield every task when it is done."""
        for task in tasks:
            start = time.perf_counter()
            value = task.work(self._worker)
            yield Done(task, value, time.perf_counter() - start)
