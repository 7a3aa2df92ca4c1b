"""What a worker of a run is: a session on the run directory, with what it keeps from task to task."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError
from diff_es.metrics import metrics
from diff_es.pruning import pruners
from diff_es.run.measure import Bench, Contestant
from diff_es.run.session import Session

if TYPE_CHECKING:
    from diff_es.fitness import TrajectoryFitness
    from diff_es.recipe import Recipe
    from diff_es.search import Outcome, Trial


class SessionWorker:
    """Does the tasks of a run on one pipeline."""

    def __init__(self, session: Session, bench: Bench) -> None:
        """Take a session and what samples images of its contestants."""
        self.session = session
        self._bench = bench
        self._fitness: dict[str, TrajectoryFitness] = {}

    def score(self, allocation: str, trial: Trial) -> Outcome:
        """Measure a candidate. Outputs of the denoiser are kept for the next ones under the same allocation."""
        if allocation not in self._fitness:
            self._fitness = {}  # whose weights would still be there while the next one's are planned
            self._fitness = {allocation: self.session.fitness(allocation)}
        return self._fitness[allocation](trial.candidate.levels, trial.rival)

    def make_images(self, entry: Contestant, slug: str, index: int) -> None:
        """Sample one file of a contestant's images."""
        self._fitness = {}  # no search goes on, and its outputs take memory
        if entry.schedule is not None:
            entry = replace(entry, bank=self.session.bank)
        folder, section = self.session.folder / "evaluation" / slug, self.session.recipe.evaluation
        self._bench.sample_file(entry, self.session.evaluation_images(), folder, section.batch_size, index)


@dataclass(frozen=True)
class OpenSession:
    """Opens a run in another process, and loads its pipeline there.

    Attributes:
        recipe: The run's recipe.
        folder: The run directory, absolute; all workers see it.
        stock: Where calibration, bank and sensitivity are, absolute.
        threads: Threads of torch on a CPU.
        current: The current directory, from which relative paths of the recipe are meant.
    """

    recipe: Recipe
    folder: Path
    stock: Path
    threads: int
    current: Path

    @classmethod
    def of(cls, session: Session, threads: int) -> OpenSession:
        """Describe a session of this process; a worker sees but one GPU, its own."""
        recipe = session.recipe.model_copy(update={"device": session.device.type})
        return cls(recipe, session.folder.resolve(), session.stock.resolve(), threads, Path.cwd())

    def __call__(self) -> SessionWorker:
        """Open it; changes the current directory and the threads of the process that is the worker's own.

        Raises:
            InputError: the recipe names what was registered in the process that began the run, and is not known here;
                or this machine has no such current directory.
        """
        self._enter_current()
        torch.set_num_threads(self.threads)
        session = self.session()
        with _known_here():
            _ = metrics[self.recipe.search.metric], pruners[self.recipe.pruning.method]
        pipe = session.pipe
        with _known_here():
            denoiser_of(pipe)
        return SessionWorker(session, Bench(pipe, session.sampler, None))

    def _enter_current(self) -> None:
        try:
            os.chdir(self.current)
        except OSError as error:
            raise InputError(
                f"In a worker on {platform.node()}: the folder {self.current}, from which relative paths are meant, "
                f"cannot be entered ({error.strerror}). Start the run in a folder that all machines have."
            ) from error

    def session(self) -> Session:
        """Open the run."""
        return Session(self.recipe, self.folder, stock=self.stock)


@contextmanager
def _known_here() -> Iterator[None]:
    """Explain why a name is unknown here that was known where the run began."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"In a worker: {error} It is registered only in your process; register it in a module that workers import: "
            'RayWorkers(imports=("your_module",)).'
        ) from error
