"""The tasks of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diff_es.artifacts import held
from diff_es.execution import Done, ExecutionError, Failed, RayWorkers, Task
from diff_es.recipe import Recipe
from diff_es.run import Session, compress
from diff_es.run.measure import DENSE, Contestant
from diff_es.run.tasks import calibrate_stages, make_images, prune_stages, scored_by
from diff_es.search import Candidate, Outcome, Trial
from run.tiny_run import saved_model, tiny_recipe, tiny_settings
from support import tiny_pipe


class Noting:
    """Notes what it is given, and has it done at once."""

    count = 2

    def __init__(self) -> None:
        self.tasks: list[Task[Any]] = []

    def run(self, tasks: Sequence[Task[Any]]) -> Iterator[Done[Any]]:
        self.tasks += tasks
        return (Done(task, Outcome(0.5), 0.0) for task in tasks)


class Dying(Noting):
    """Dies in the middle of a file, with nothing done."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, tasks: Sequence[Task[Any]]) -> Iterator[Done[Any]]:
        (self.folder / ".settings.json.4711.tmp").write_bytes(b"half")
        return super().run(tasks)


def test_what_dead_workers_were_writing_is_removed(tmp_path: Path) -> None:
    session = Session(Recipe.parse(tiny_settings("tiny")), tmp_path, tiny_pipe())
    for folder, made in (("calibration", lambda: session.statistics), ("bank", lambda: session.bank)):
        session.workers = Dying(tmp_path / folder)
        made()
        assert session.workers.tasks
        assert not list((tmp_path / folder).glob(".*.tmp"))


class Refusing(Noting):
    def run(self, tasks: Sequence[Task[Any]]) -> Iterator[Done[Any]]:
        raise ExecutionError("every worker died")


@dataclass(frozen=True)
class Watched(RayWorkers):
    """Workers that note whether the run still holds its folder when they end."""

    folder: Path = Path()
    held: list[bool] = field(default_factory=list)

    @contextmanager
    def start(self, factory: object, *, gpus: bool) -> Iterator[Any]:
        try:
            yield Refusing()
        finally:
            with held(self.folder / ".lock") as free:
                self.held.append(not free)


def test_workers_end_before_the_folder_is_given_up(tmp_path: Path) -> None:
    workers = Watched(folder=tmp_path / "run")
    recipe = tiny_recipe(saved_model(tmp_path))
    with pytest.raises(ExecutionError, match="every worker died"):
        compress(recipe, tmp_path / "run", workers=workers)
    assert workers.held == [True]
    with held(tmp_path / "run" / ".lock") as free:
        assert free


@dataclass(frozen=True)
class Failing(Noting):
    reason: str

    def run(self, tasks: Sequence[Task[Any]]) -> Iterator[Failed[Any]]:
        return (Failed(task, self.reason) for task in tasks)


@pytest.mark.parametrize("reason", ["signal 9", "It did not end."])
def test_a_task_that_is_needed_ends_the_run_with_whole_sentences(reason: str) -> None:
    with pytest.raises(ExecutionError, match=rf"died of it: {reason.rstrip('.')}\. Resume the run"):
        prune_stages(Failing(reason), [0])


def test_all_but_candidates_may_take_hours() -> None:
    workers = Noting()
    calibrate_stages(workers, [0, 1, 2])
    prune_stages(workers, [0])
    make_images(workers, [(Contestant(DENSE, ""), "dense", 0)])
    list(scored_by(workers, "uniform")([Trial(Candidate((1, 2), 0, 0))]))
    assert {task.kind: task.lengthy for task in workers.tasks} == {
        "calibration": True,
        "pruning": True,
        "images": True,
        "candidate": False,
    }
