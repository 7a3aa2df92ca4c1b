"""Who died of what, and where: when a task is overdue, when it is given up, and when nothing works any more.

A death may be the task's fault or the place's (a GPU that is broken kills whatever it is given). So a task is given up
only after deaths in different places, and a place where worker after worker dies is not used any more.

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
        deaths: A task is given up when so many workers have died of it, ≥ 1, in as many places or in all that are left.
        factor: A task hangs when it takes so many times the median of its kind, > 1, …
        least: … and at least so many seconds: a new worker first loads and compiles. And never before twice the longest
            of its kind: where most candidates are replayed or dropped early, a whole one is far from the median.
        unknown: Seconds after which a task hangs, or a worker that is opened, while fewer than three of its kind are
            done, …
        lengthy: … and for a task that may take hours.
        in_a_row: So many deaths beyond the number of workers, without anything done in between, end the run: a machine
            that is lost takes all its workers at once.
        in_place: After so many deaths in one place, without anything done there in between, it is left, ≥ 1.
    """

    deaths: int = 2
    factor: float = 10.0
    least: float = 60.0
    unknown: float = 3600.0
    lengthy: float = 86_400.0
    in_a_row: int = 6
    in_place: int = 3

    def __post_init__(self) -> None:
        for name, value, fine in (
            ("deaths", self.deaths, self.deaths >= 1),
            ("factor", self.factor, self.factor > 1),
            ("least", self.least, self.least > 0),
            ("unknown", self.unknown, self.unknown > 0),
            ("lengthy", self.lengthy, self.lengthy > 0),
            ("in_a_row", self.in_a_row, self.in_a_row >= 1),
            ("in_place", self.in_place, self.in_place >= 1),
        ):
            if not fine:
                raise InputError(f"Patience.{name}={value} is out of range.")

    @classmethod
    def of_hours(cls, hours: float) -> Patience:
        """Return one with which nothing hangs before so many hours."""
        return cls(least=hours * 3600, unknown=hours * 3600, lengthy=hours * 3600)


@dataclass(frozen=True)
class _Death:
    place: int
    reason: str


class Ledger:
    """Keeps the account of one executor."""

    def __init__(self, patience: Patience, places: int) -> None:
        """Open an empty account for so many places, numbered from 0."""
        self.patience = patience
        self._limit_in_a_row = patience.in_a_row + places
        self._usable = set(range(places))
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._deaths: dict[str, list[_Death]] = defaultdict(list)
        self._given_up: list[Failed[Any]] = []
        self._in_a_row = 0
        self._in_place: dict[int, int] = defaultdict(int)

    def limit(self, task: Task[Any] | None) -> float:
        """Return after how many seconds a task counts as hanging, or with None a worker that is opened."""
        known = self._seconds[task.kind] if task is not None else ()
        if len(known) < 3:
            return self.patience.lengthy if task is not None and task.lengthy else self.patience.unknown
        return max(self.patience.least, self.patience.factor * statistics.median(known), 2 * max(known))

    def done(self, end: Done[Any], place: int) -> None:
        """Enter a task that ended well."""
        self._seconds[end.task.kind].append(end.seconds)
        self._in_a_row = self._in_place[place] = 0

    def died(self, task: Task[Any] | None, place: int, reason: str) -> bool:
        """Enter the death of a worker.

        Args:
            task: What it was doing; None while it was being made.
            place: Where.
            reason: How it died.

        Returns:
            Whether the task is to be tried again, on another worker. One that is not comes back as a verdict.

        Raises:
            ExecutionError: too many deaths in a row.
        """
        self._in_a_row += 1
        self._in_place[place] += 1
        if self._in_a_row >= self._limit_in_a_row:
            raise ExecutionError(f"{self._in_a_row} workers died one after the other, with nothing done: {reason}")
        if task is None:
            return False
        deaths = self._deaths[task.name]
        deaths.append(_Death(place, reason))
        needed = self.patience.deaths
        if len(deaths) < needed or len(self._died_in(task)) < min(needed, len(self._usable)):
            return True
        self._given_up.append(Failed(task, "; ".join(dict.fromkeys(death.reason for death in deaths))))
        return False

    def withheld(self, task: Task[Any], place: int) -> bool:
        """Whether a task is not to be done in a place, for it died there and not yet everywhere."""
        died = self._died_in(task)
        return place in died and died != self._usable

    def _died_in(self, task: Task[Any]) -> set[int]:
        """Where workers died of a task; a place that is not used any more is no witness."""
        return {death.place for death in self._deaths.get(task.name, ())} & self._usable

    def retire_if_dead(self, place: int) -> bool:
        """Leave a place where worker after worker died, for good; the last one is used to the end of all patience.

        Returns:
            Whether it was left just now.
        """
        dead = self._in_place[place] >= self.patience.in_place
        if not dead or place not in self._usable or self._usable == {place}:
            return False
        self.leave(place)
        return True

    def leave(self, place: int) -> None:
        """Enter that nothing can be done in a place."""
        self._usable.discard(place)

    def enter(self, place: int) -> None:
        """Enter that something can be done there again."""
        self._usable.add(place)

    def forget(self) -> None:
        """Forget the tasks of a run that is over, however it ended; what is known of kinds and places stays."""
        self._deaths.clear()
        self._given_up.clear()

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
