"""The tasks of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diff_es.execution import Done, Task
from diff_es.recipe import Recipe
from diff_es.run import Session
from diff_es.run.measure import DENSE, Contestant
from diff_es.run.tasks import calibrate_stages, make_images, prune_stages, scored_by
from diff_es.search import Candidate, Outcome, Trial
from run.tiny_run import tiny_settings
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
