"""Who died of what: when a task is overdue, when it is given up, and when nothing works any more.

No clock, no process: times come in as numbers, so that every rule can be tested without workers.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from diff_es.errors import InputError
from diff_es.execution.base import Done, ExecutionError, Failed, Task


@dataclass(frozen=True)
class Patience:
    """How much is put up with.

    Attributes:
        deaths: A task is given up when so many workers have died of it, ≥ 1.
        factor: A task hangs when it takes so many times the median of its kind, > 1, …
        least: … and at least so many seconds: a new worker first loads and compiles. And never before twice the longest
            of its kind: where most candidates are replayed or dropped early, a whole one is far from the median.
        unknown: Seconds after which a task hangs while fewer than three of its kind are done.
        in_a_row: So many deaths without anything done in between end the run.
    """

    deaths: int = 2
    factor: float = 10.0
    least: float = 60.0
    unknown: float = 3600.0
    in_a_row: int = 6

    def __post_init__(self) -> None:
        for name, value, fine in (
            ("deaths", self.deaths, self.deaths >= 1),
            ("factor", self.factor, self.factor > 1),
            ("least", self.least, self.least > 0),
            ("unknown", self.unknown, self.unknown > 0),
            ("in_a_row", self.in_a_row, self.in_a_row >= 1),
        ):
            if not fine:
                raise InputError(f"Patience.{name}={value} is out of range.")


class Ledger:
    """Keeps the account of one executor."""

    def __init__(self, patience: Patience) -> None:
        """Open an empty account."""
        self.patience = patience
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._deaths: dict[str, list[str]] = defaultdict(list)
        self._given_up: list[Failed[Any]] = []
        self._in_a_row = 0

    def limit(self, kind: str) -> float:
        """Return after how many seconds a task of a kind counts as hanging."""
        known = self._seconds[kind]
        if len(known) < 3:
            return self.patience.unknown
        return max(self.patience.least, self.patience.factor * statistics.median(known), 2 * max(known))

    def done(self, end: Done[Any]) -> None:
        """Enter a task that ended well."""
        self._seconds[end.task.kind].append(end.seconds)
        self._in_a_row = 0

    def died(self, task: Task[Any] | None, reason: str) -> bool:
        """Enter the death of a worker.

        Args:
            task: What it was doing; None while it was being made.
            reason: How it died.

        Returns:
            Whether the task is to be tried again, on another worker. One that is not comes back as a verdict.

        Raises:
            ExecutionError: too many deaths in a row.
        """
        self._in_a_row += 1
        if self._in_a_row >= self.patience.in_a_row:
            raise ExecutionError(f"{self._in_a_row} workers died one after the other, with nothing done: {reason}")
        if task is None:
            return False
        reasons = self._deaths[task.name]
        reasons.append(reason)
        if len(reasons) < self.patience.deaths:
            return True
        self._given_up.append(Failed(task, "; ".join(dict.fromkeys(reasons))))
        return False

    def verdicts(self, *, final: bool = False) -> list[Failed[Any]]:
        """Return the tasks that were given up since the last call.

        They are held back until something was done: before that, deaths may have nothing to do with the task.

        Args:
            final: Whether nothing else is left to be done.

        Raises:
            ExecutionError: nothing was ever done, and nothing is left.
        """
        if self._given_up and not any(self._seconds.values()):
            if final:
                raise ExecutionError(f"Every worker died, and nothing was ever done: {self._given_up[0].reason}")
            return []
        ready, self._given_up = self._given_up, []
        return ready
