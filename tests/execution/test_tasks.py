"""The tasks of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diff_es.execution import Done, Task
from diff_es.run.measure import DENSE, Contestant
from diff_es.run.tasks import calibrate_stages, make_images, prune_stages, scored_by
from diff_es.search import Candidate, Outcome, Trial


class Noting:
    """Notes what it is given, and has it done at once."""

    count = 2

    def __init__(self) -> None:
        self.tasks: list[Task[Any]] = []

    def run(self, tasks: Sequence[Task[Any]]) -> Iterator[Done[Any]]:
        self.tasks += tasks
        return (Done(task, Outcome(0.5), 0.0) for task in tasks)


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
