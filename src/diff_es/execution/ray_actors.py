"""Workers as Ray actors.

Ray could restart actors and repeat their tasks by itself, but a task that always kills its worker then uses up all
restarts. So nothing is retried by Ray; this process sees every death, enters it in the ledger, and makes a new worker
when the process of the old one is gone (before that, its GPU memory is not free). A worker whose GPU fails, or whose
memory is full, only raises an exception; it is ended here, and counts as dead.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from diff_es.execution.base import Done, Ended, ExecutionError, Task
from diff_es.execution.faults import described, is_fault
from diff_es.execution.ledger import Ledger, Patience
from diff_es.execution.processes import Process
from diff_es.execution.trails import Trails, choose

logger = logging.getLogger(__name__)

W = TypeVar("W")

#: What Ray says where a worker is gone, or cannot be; an answer may go with the machine that it lay on. All its other
#: errors say that something cannot be sent, which would come again.
_DEATHS = (
    RayActorError,
    WorkerCrashedError,
    OutOfMemoryError,
    NodeDiedError,
    LocalRayletDiedError,
    ObjectLostError,
    ActorUnschedulableError,
)
#: Seconds between two looks at the clock, and at processes that are to end.
_POLL, _POLL_ENDING = 1.0, 0.05
#: Seconds after which it is said that Ray has nothing to give to a worker.
_SAY_WAITING_AFTER = 30.0
#: Seconds in which a killed process must have ended for another to start; one that hangs in a driver may never.
_KILL_TIMEOUT = 60.0
#: Seconds for which it is waited for at the end, when nobody comes after it.
_CLOSE_TIMEOUT = 10.0


class _Host:
    """What runs in the worker's process."""

    def __init__(self, modules: Sequence[str]) -> None:
        # Works and factories may be defined wherever the driver imports from; Ray passes on its script's folder only.
        sys.path += [folder for folder in modules if folder not in sys.path]
        # A worker that dies of a bad memory access says where, in the file that its standard error goes to.
        faulthandler.enable()
        self._worker: Any = None

    def process(self) -> Process:
        return Process.own()

    def open(self, factory: Callable[[], Any]) -> None:
        self._worker = factory()

    def run(self, work: Callable[[Any], Any]) -> tuple[Any, float]:
        start = time.perf_counter()
        value = work(self._worker)
        return value, time.perf_counter() - start


class _Slot(Generic[W]):
    """One worker: starting, being opened, free, busy with a task, or ending; one that is retired only starts."""

    def __init__(self, factory: Callable[[], W], resources: dict[str, int], *, retired: bool = False) -> None:
        options = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}
        host = ray.remote(max_restarts=0, max_task_retries=0, **options)(_Host)
        self._factory = factory
        self._actor = host.remote(sys.path)
        self._process: Process | None = None
        self.call: Any = self._actor.process.remote()
        self.task: Task[W] | None = None
        self.started = time.monotonic()
        self.opened = False
        self.stuck = False
        self.retired = retired
        self.trails = Trails()
        self.ending: Callable[[], bool] | None = None

    @property
    def free(self) -> bool:
        return self.opened and self.call is None and self.ending is None

    @property
    def placed(self) -> bool:
        """Whether Ray has given it what it needs, and its process has answered."""
        return self._process is not None

    @property
    def place(self) -> str:
        return self._process.place if self._process else "nowhere yet"

    def give(self, task: Task[W]) -> None:
        self.task, self.started = task, time.monotonic()
        self.call = self._actor.run.remote(task.work)
        self.trails.add(task.trail)

    def settle(self) -> Done[W] | None:
        """Take the answer to the call, and go on to the next state; return the task if one was done.

        Raises:
            RayError: the worker has died or is as good as dead (`_death` says of what), or only the call has failed.
        """
        task, call = self.task, self.call
        self.task = self.call = None
        try:
            answer = ray.get(call)
        except RayError as error:
            if _death(error):
                self.task = task  # of which it died
            raise
        if task is not None:
            value, seconds = answer
            return Done(task, value, seconds)
        if self._process is None:
            # Opened only now: whatever it dies of from here on, its process is known.
            self._process = answer
            self.started = time.monotonic()
            if not self.retired:
                self.call = self._actor.open.remote(self._factory)
        else:
            self.opened = True
        return None

    def end(self) -> str:
        """Kill the process if it lives, and return what it had to say."""
        self.call = self.task = None
        self.started = time.monotonic()
        ray.kill(self._actor)
        if self._process is None:
            self.ending = lambda: True
            return ""
        self.ending = self._process.kill(ray.get_runtime_context().get_node_id())
        return self._process.last_words()


class RayExecutor(Generic[W]):
    """Runs tasks on a number of workers, each given the task of which it remembers most."""

    def __init__(self, factory: Callable[[], W], count: int, resources: dict[str, int], patience: Patience) -> None:
        """Start the workers; they open while this process goes on.

        Args:
            factory: Makes a worker in its process.
            count: Number of workers.
            resources: What Ray keeps for each: {"GPU": 1} or {"CPU": threads}.
            patience: When a worker hangs, and when a task is given up.
        """
        self._factory = factory
        self._resources = resources
        self._ledger = Ledger(patience, count)
        self._slots = [_Slot(factory, resources) for _ in range(count)]
        self._retired: set[int] = set()

    @property
    def count(self) -> int:
        """Number of workers, those included that are being opened."""
        return len(self._slots) - len(self._retired)

    def close(self) -> None:
        """End all workers; those that do not end in time are left."""
        for slot in self._slots:
            slot.end()
        patience = time.monotonic() + _CLOSE_TIMEOUT
        while time.monotonic() < patience and not all(slot.ending() for slot in self._slots if slot.ending):
            time.sleep(_POLL_ENDING)
        self._slots = []

    def wait_open(self) -> None:
        """Return when every worker is open.

        Raises:
            ExecutionError: they die while they are opened. Their own exceptions are raised as they are.
        """
        while not all(slot.opened or index in self._retired for index, slot in enumerate(self._slots)):
            self._advance([])

    def run(self, tasks: Sequence[Task[W]]) -> Iterator[Ended[W]]:
        """Yield every task once, in the order in which they end; see `Executor`."""
        waiting = list(tasks)
        try:
            while waiting or any(slot.task for slot in self._slots):
                self._hand_out(waiting)
                yield from self._advance(waiting)
                yield from self._ledger.verdicts()
            yield from self._ledger.verdicts(final=True)
        finally:
            self._ledger.forget()
            # Whoever stops listening half-way must not get these results for those of later tasks.
            for slot in self._slots:
                if slot.task is not None:
                    slot.end()

    def _hand_out(self, waiting: list[Task[W]]) -> None:
        for index, slot in enumerate(self._slots):
            fitting = [task for task in waiting if not self._ledger.withheld(task, index)] if slot.free else []
            if fitting:
                task = choose(fitting, slot.trails, [other.trails for other in self._slots if other is not slot])
                waiting.remove(task)
                slot.give(task)

    def _advance(self, waiting: list[Task[W]]) -> list[Done[W]]:
        """Wait until something happens, a moment at most, and return what was done."""
        self._replace_ended()
        calls = {slot.call: slot for slot in self._slots if slot.call is not None}
        pause = _POLL_ENDING if any(slot.ending for slot in self._slots) else _POLL
        if not calls:
            time.sleep(_POLL_ENDING)
            return []
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=pause)
        done = [end for call in ready for end in self._settle(calls[call], waiting)]
        for slot in set(calls.values()) - {calls[call] for call in ready}:
            if slot.placed:
                self._check_clock(slot, waiting)
        self._check_places()
        return done

    def _settle(self, slot: _Slot[W], waiting: list[Task[W]]) -> list[Done[W]]:
        """Take what a call has come to."""
        try:
            end = slot.settle()
        except RayError as error:
            if reason := _death(error):
                logger.debug("Of what a worker died:", exc_info=error)
                self._enter_death(slot, waiting, reason)
                return []
            if not slot.opened:
                slot.end()
            raise _own(error) from error
        place = self._slots.index(slot)
        if end is None:
            if not slot.retired:
                self._ledger.enter(place)
            return []
        self._ledger.done(end, place)
        return [end]

    def _check_clock(self, slot: _Slot[W], waiting: list[Task[W]]) -> None:
        """End a worker that hangs."""
        limit = self._ledger.limit(slot.task)
        late = time.monotonic() - slot.started > limit
        # Where this process itself was held up, the answer may be there.
        if late and not ray.wait([slot.call], timeout=0)[0]:
            self._enter_death(slot, waiting, f"It did not end within {limit:.0f} s (--worker-patience allows more).")

    def _check_places(self) -> None:
        """Say what workers wait for where Ray has nothing to give: others use it, or a machine was lost.

        Raises:
            ExecutionError: no worker is left, and Ray has nothing that one of them could have.
        """
        wanting = [slot for slot in self._slots if not slot.placed and slot.ending is None and not slot.retired]
        late = [slot for slot in wanting if time.monotonic() - slot.started > _SAY_WAITING_AFTER]
        if all(slot.stuck for slot in late):
            return
        for slot in late:
            slot.stuck = True
            self._ledger.leave(self._slots.index(slot))
        ((resource, each),) = self._resources.items()
        there, free = (int(known.get(resource, 0)) for known in (ray.cluster_resources(), ray.available_resources()))
        if len(late) == self.count and there < each:
            raise ExecutionError(f"No worker is left, and Ray has {there} × {resource}: its machines were lost.")
        logger.warning(
            "Waiting for Ray to give %d more %s to workers; it has %d, %d of them free.",
            each * len(late),
            resource,
            there,
            free,
        )

    def _enter_death(self, slot: _Slot[W], waiting: list[Task[W]], reason: str) -> None:
        task, place = slot.task, self._slots.index(slot)
        words = slot.end()
        reason = f"{reason} It last wrote: {words}" if words else reason
        logger.warning("A worker died %s: %s", f"of {task.name}" if task else "while it was opened", reason)
        if self._ledger.died(task, place, reason) and task is not None:
            waiting.append(task)
        if self._ledger.retire_if_dead(place):
            self._retired.add(place)
            logger.warning(
                "%d workers died in a row in the same place (last on %s), which is not used any more: the run goes on "
                "with %d. Look at that GPU.",
                self._ledger.patience.in_place,
                slot.place,
                self.count,
            )

    def _replace_ended(self) -> None:
        """Put new workers in the place of those whose processes are gone.

        One in a retired place does nothing but keep the GPU, which Ray would give to the next worker that starts.
        """
        for index, slot in enumerate(self._slots):
            if slot.ending is None:
                continue
            if slot.ending():
                self._slots[index] = _Slot(self._factory, self._resources, retired=index in self._retired)
            elif time.monotonic() - slot.started > _KILL_TIMEOUT:
                raise ExecutionError(f"A killed worker did not end within {_KILL_TIMEOUT:.0f} s; look for its process.")


def _own(error: RayError) -> Exception:
    """Return the work's own exception; where it could not be sent here, one of ours with the worker's traceback."""
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        cause: Exception = error.cause
        return cause
    return ExecutionError(f"A worker failed with an error or a result that cannot be sent: {error}")


def _death(error: RayError) -> str:
    """Return of what a worker has died, or must: what its work raised says so too. Nothing where only a call failed."""
    if isinstance(error, RayTaskError):
        return described(error.cause) if is_fault(error.cause) else ""
    return _cause(error) if isinstance(error, _DEATHS) else ""


def _cause(error: RayError) -> str:
    """Return what Ray knows of a death, without its names for the worker and its guesses."""
    lines = str(error).strip().splitlines()
    text = " ".join(" ".join(lines).split())
    _, known, rest = text.partition("The actor is dead because ")
    # Else Ray could not even make the host there: the last line is the exception.
    return rest.partition(" Some common causes")[0] if known else lines[-1]
