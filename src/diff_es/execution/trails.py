"""Which task for which worker: the one of which it remembers most, beyond what the others remember."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

from diff_es.execution.base import Task

W = TypeVar("W")


class Trails:
    """The beginnings of the trails that one worker has gone."""

    def __init__(self) -> None:
        """Remember nothing."""
        self._gone: set[tuple[Hashable, ...]] = set()

    def add(self, trail: tuple[Hashable, ...]) -> None:
        """Remember a trail with all its beginnings."""
        self._gone |= {trail[:length] for length in range(1, len(trail) + 1)}

    def known(self, trail: tuple[Hashable, ...]) -> int:
        """Return how many steps from the beginning of a trail were gone before."""
        length = 0
        while length < len(trail) and trail[: length + 1] in self._gone:
            length += 1
        return length


def choose(waiting: Sequence[Task[W]], own: Trails, others: Sequence[Trails]) -> Task[W]:
    """Return the task for a free worker.

    What only this worker knows is computed again wherever else it goes, hence the difference to what others know. Among
    equals the longest goes first: short ones fill the gaps at the end.

    Args:
        waiting: At least one task.
        own: What the free worker remembers.
        others: What the others do.
    """

    def worth(task: Task[W]) -> tuple[int, int]:
        mine = own.known(task.trail)
        return mine - max((other.known(task.trail) for other in others), default=0), -mine

    return max(waiting, key=worth)
