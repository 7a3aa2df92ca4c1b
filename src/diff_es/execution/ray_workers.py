"""How many workers, and where; importable without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Generic, TypeVar

from diff_es.errors import InputError
from diff_es.execution.ledger import Patience

if TYPE_CHECKING:
    from diff_es.execution.ray_actors import RayExecutor

W = TypeVar("W")


@dataclass(frozen=True)
class _Importing(Generic[W]):
    """A factory that first imports what it needs."""

    modules: tuple[str, ...]
    factory: Callable[[], W]

    def __call__(self) -> W:
        for name in self.modules:
            import_module(name)
        return self.factory()


@dataclass(frozen=True)
class RayWorkers:
    """Workers in processes of their own: Ray actors, on this machine or on a cluster.

    Attributes:
        count: Number of workers, ≥ 1; each takes a GPU where there are GPUs, else `threads` processors.
        address: A running cluster: "auto" for the one that this machine belongs to, or host:port of its head. Empty
            starts Ray on this machine, for this process alone.
        threads: Threads of each worker on a CPU, ≥ 1. Their number moves the last bits of a result, so it does not
            follow from `count`.
        patience: When a worker hangs, and when a task is given up; `Patience.of_hours(12)` is what --worker-patience 12
            means.
        imports: Modules that each worker imports before it opens, such as one that registers a metric.
    """

    count: int = 2
    address: str = ""
    threads: int = 1
    patience: Patience = field(default_factory=Patience)
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("workers", self.count), ("worker_threads", self.threads)):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1.")
        if "://" in self.address:
            raise InputError(
                f"ray_address={self.address!r}: start the run on a machine of the cluster, and give auto or host:port."
            )

    def check(self) -> None:
        """Check that Ray is there.

        Raises:
            InputError: it is not.
        """
        if find_spec("ray") is None:
            raise InputError(f"workers={self.count} need Ray: pip install 'diff-es[ray]'.")

    @contextmanager
    def start(self, factory: Callable[[], W], *, gpus: bool) -> Iterator[RayExecutor[W]]:
        """Have the workers while the context lasts.

        Args:
            factory: Makes a worker in its process; picklable.
            gpus: Whether each worker takes a GPU.

        Raises:
            InputError: Ray is missing, no cluster answers, or it has too few GPUs or processors.
        """
        self.check()
        from diff_es.execution.ray_actors import RayExecutor  # noqa: PLC0415 (Ray is an extra)
        from diff_es.execution.ray_cluster import check_resources, connected  # noqa: PLC0415

        resource, each = ("GPU", 1) if gpus else ("CPU", self.threads)
        with connected(self.address, cpus=self.count * self.threads, gpus=gpus):
            check_resources(resource, each, self.count)
            opens = _Importing(self.imports, factory)
            executor = RayExecutor(opens, self.count, {resource: each}, self.patience)
            try:
                yield executor
            finally:
                executor.close()


def asked_for(
    workers: int | None, address: str | None, threads: int | None, patience: float | None
) -> RayWorkers | None:
    """Return the workers that a command line asks for; None where this process is to do it all.

    Args:
        workers: Their number; None or 1 without an address means this process.
        address: A running cluster, as for `RayWorkers`.
        threads: Threads of each.
        patience: Hours before which no task counts as hanging.

    Raises:
        InputError: a value that cannot be used, one for workers where none are asked for, or Ray is missing.
    """
    if workers in {None, 1} and address is None:
        for option, value in (("worker_threads", threads), ("worker_patience", patience)):
            if value is not None:
                raise InputError(f"{option}={value:g} is for workers, and there are none; give --workers too.")
        return None
    if patience is not None and not patience > 0:
        raise InputError(f"worker_patience={patience:g} must be more than 0 hours.")
    kept = Patience() if patience is None else Patience.of_hours(patience)
    crew = RayWorkers(1 if workers is None else workers, address or "", 1 if threads is None else threads, kept)
    crew.check()
    return crew
