"""Tasks go to the worker that remembers most of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from diff_es.execution import Task
from diff_es.execution.trails import Trails, choose

trail = st.lists(st.integers(0, 2), max_size=5).map(tuple)


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


@given(st.lists(trail, max_size=8), trail)
def test_known_is_the_longest_common_beginning(gone: list[tuple[int, ...]], new: tuple[int, ...]) -> None:
    trails = Trails()
    for one in gone:
        trails.add(one)
    assert trails.known(new) == max((common(one, new) for one in gone), default=0)


def of(*gone: tuple[int, ...]) -> Trails:
    trails = Trails()
    for one in gone:
        trails.add(one)
    return trails


def task(*trail: int) -> Task[Any]:
    return Task(str(trail), "candidate", print, trail)


def test_a_worker_gets_what_only_it_remembers() -> None:
    waiting = [task(1, 1, 1), task(2, 2, 2), task(3, 3, 3)]
    assert choose(waiting, of((2, 2, 9)), [of((1, 1, 9))]) == task(2, 2, 2)
    assert choose(waiting, of((1, 1, 9)), [of((2, 2, 9))]) == task(1, 1, 1)
    assert choose(waiting, of(), [of((1, 1, 9)), of((2, 2, 9))]) == task(3, 3, 3), "not what others remember"


def test_among_equals_the_longest_goes_first() -> None:
    both = (1, 1, 9)
    assert choose([task(1, 1, 1), task(2, 2, 2)], of(both), [of(both)]) == task(2, 2, 2)


def test_without_any_memory_the_order_stays() -> None:
    assert choose([task(2), task(1)], of(), []) == task(2)
