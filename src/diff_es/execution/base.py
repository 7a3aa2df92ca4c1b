"""Tasks, how they end, and what every executor does with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from diff_es.errors import DiffESError

W = TypeVar("W")


class ExecutionError(DiffESError):
    """Workers cannot be started, or die whatever they do."""


@dataclass(frozen=True)
class Task(Generic[W]):
    """A piece of work for a worker of type W.

    Attributes:
        name: What messages call it; unique among all tasks that an executor is given.
        kind: Tasks of one kind take about as long as each other; from those that are done follows when one hangs.
        work: What is done, a picklable function of the worker that returns something picklable. It may be called more
            than once (a worker can die after it), so it must be a function of the worker alone, or write a file
            atomically.
        trail: What is computed on the way, in order. A worker that has done a task whose trail begins in the same way
            remembers that part, so tasks are given to the worker that knows most of them.
        lengthy: Whether it may take hours, and nothing tells how many before some of its kind are done.
    """

    name: str
    kind: str
    work: Callable[[W], Any]
    trail: tuple[Hashable, ...] = ()
    lengthy: bool = False


@dataclass(frozen=True)
class Done(Generic[W]):
    """A task that ended well.

    Attributes:
        task: The task.
        value: What its work returned.
        seconds: How long the work took, without waiting.
    """

    task: Task[W]
    value: Any
    seconds: float


@dataclass(frozen=True)
class Failed(Generic[W]):
    """A task that was given up because worker after worker died of it.

    Attributes:
        task: The task.
        reason: How the workers died.
    """

    task: Task[W]
    reason: str


Ended: TypeAlias = Done[W] | Failed[W]


class Executor(Protocol[W]):
    """Runs tasks on workers.

    An exception that a work raises is raised by `run`, as it is: it would come again on every worker. Only the death of
    workers makes a task fail; a worker whose GPU fails or whose memory is full counts as dead.
    """

    @property
    def count(self) -> int:
        """Number of workers."""

    def run(self, tasks: Sequence[Task[W]]) -> Iterator[Ended[W]]:
        """Yield every task once, in the order in which they end.

        Raises:
            ExecutionError: workers cannot be started, or die whatever they are given.
        """
