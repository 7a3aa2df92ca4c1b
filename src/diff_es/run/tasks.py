"""A run's work in pieces, each for any worker: calibration sets, bank shards, candidates, image files.

All but the candidates are files of the run directory. So the workers make those that are missing, and then the step
itself finds them, as in a run that was resumed. That takes a folder which all workers and this process see.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from diff_es.execution import Done, ExecutionError, Executor, Failed, Task
from diff_es.progress import track
from diff_es.search import Evaluator, Outcome, Trial

if TYPE_CHECKING:
    from diff_es.run.measure import Contestant
    from diff_es.run.workers import SessionWorker

logger = logging.getLogger(__name__)

Workers: TypeAlias = "Executor[SessionWorker]"


@dataclass(frozen=True)
class CalibrateStages:
    """Collect the statistics of some stages; None stands for one set of all timesteps."""

    stages: tuple[int | None, ...]

    def __call__(self, worker: SessionWorker) -> None:
        """Write them."""
        worker.session.calibrate_stages(self.stages)


@dataclass(frozen=True)
class PruneStage:
    """Compute the pruning trajectories of one stage."""

    stage: int

    def __call__(self, worker: SessionWorker) -> None:
        """Write them."""
        worker.session.prune_stage(self.stage)


@dataclass(frozen=True)
class Score:
    """Measure the fitness of a candidate under one allocation."""

    allocation: str
    trial: Trial

    def __call__(self, worker: SessionWorker) -> Outcome:
        """Return it."""
        return worker.score(self.allocation, self.trial)


@dataclass(frozen=True)
class MakeImages:
    """Sample one file of a contestant's images; the bank is the worker's own."""

    entry: Contestant
    slug: str
    index: int

    def __call__(self, worker: SessionWorker) -> None:
        """Write it."""
        worker.make_images(self.entry, self.slug, self.index)


def calibrate_stages(workers: Workers, stages: Sequence[int | None]) -> None:
    """Collect statistics of stages, as many together as there are for each worker: one sampling run fills them all."""
    size = max(1, math.ceil(len(stages) / workers.count))
    parts = [tuple(stages[first : first + size]) for first in range(0, len(stages), size)]
    tasks = [
        Task(f"calibration of stages {part}", "calibration", CalibrateStages(part), lengthy=True) for part in parts
    ]
    _all_done(workers, tasks, "Calibrating")


def prune_stages(workers: Workers, stages: Sequence[int]) -> None:
    """Compute stages of the bank."""
    tasks = [Task(f"pruning of stage {stage}", "pruning", PruneStage(stage), lengthy=True) for stage in stages]
    _all_done(workers, tasks, "Pruning stages")


def make_images(workers: Workers, wanted: Sequence[tuple[Contestant, str, int]]) -> None:
    """Sample files of images, each given by its contestant, folder name and number."""
    tasks = [
        Task(f"images {index} of {slug}", "images", MakeImages(replace(entry, bank=None), slug, index), lengthy=True)
        for entry, slug, index in wanted
    ]
    _all_done(workers, tasks, "Generating images")


def scored_by(workers: Workers, allocation: str) -> Evaluator:
    """Return an evaluator of candidates; one that kills its workers gets −inf, and the search goes on."""

    def evaluate(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome, float]]:
        tasks = {_score_task(allocation, trial): trial for trial in trials}
        for end in workers.run(list(tasks)):
            if isinstance(end, Done):
                yield tasks[end.task], end.value, end.seconds
                continue
            logger.warning("%s gets −inf, for its workers died: %s", end.task.name, end.reason)
            yield tasks[end.task], Outcome(-math.inf, failure=end.reason), 0.0

    return evaluate


def _score_task(allocation: str, trial: Trial) -> Task[SessionWorker]:
    """Make the task; two schedules that agree from the last stage on make the same denoiser calls that far."""
    candidate = trial.candidate
    name = f"candidate {candidate.generation}.{candidate.child} {candidate.levels} ({allocation})"
    return Task(name, "candidate", Score(allocation, trial), (allocation, *reversed(candidate.levels)))


def _all_done(workers: Workers, tasks: Sequence[Task[SessionWorker]], description: str) -> None:
    """Run tasks without which the run cannot go on.

    Raises:
        ExecutionError: the workers died of one.
    """
    for end in track(workers.run(tasks), description, total=len(tasks)):
        if isinstance(end, Failed):
            reason = end.reason.rstrip(".")
            raise ExecutionError(f"{end.task.name}: the workers died of it: {reason}. Resume the run to try again.")
