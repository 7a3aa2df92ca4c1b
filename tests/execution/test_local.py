"""The executor of this process."""

from __future__ import annotations

import pytest

from diff_es.errors import InputError
from diff_es.execution import LocalExecutor, Task

from .works import Refuse, Square


def test_tasks_are_done_in_their_order_on_one_worker() -> None:
    worker: list[object] = []
    tasks = [Task(f"square {n}", "square", Square(n)) for n in (3, 1, 2)]
    ended = list(LocalExecutor(worker).run(tasks))
    assert [(end.task, end.value) for end in ended] == list(zip(tasks, [9, 1, 4], strict=True))
    assert all(end.seconds >= 0 for end in ended)
    assert worker == [3, 1, 2]


def test_a_result_comes_before_the_next_task_begins() -> None:
    worker: list[object] = []
    results = LocalExecutor(worker).run([Task(f"square {n}", "square", Square(n)) for n in range(2)])
    next(results)
    assert worker == [0]


def test_an_exception_is_raised_as_it_is() -> None:
    with pytest.raises(InputError, match=r"this cannot be used\."):
        list(LocalExecutor([]).run([Task("refused", "square", Refuse())]))
