"""The start population: complete, within the space, without repeats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.schedule import ScheduleSpace
from diff_es.search import START_KINDS, start_population

from .spaces import space_of, spaces


@given(spaces(), st.integers(0, 2**32))
def test_every_start_is_in_the_space_and_different(space: ScheduleSpace, seed: int) -> None:
    starts = start_population(space, START_KINDS, 20, seed)
    assert starts
    assert len(set(starts)) == len(starts) <= 20
    assert all(space.contains(levels) for levels in starts)


def test_the_seven_patterns_at_half_sparsity() -> None:
    space = space_of((2,) * 6, 16, 0.5)
    patterns = dict(
        zip(START_KINDS[:-1], start_population(space, START_KINDS[:-1], 0, 0), strict=True),
    )
    assert patterns == {
        "uniform": (8, 8, 8, 8, 8, 8),
        "front": (12, 12, 12, 4, 4, 4),
        "back": (4, 4, 4, 12, 12, 12),
        "middle": (5, 5, 14, 14, 5, 5),
        "ends": (11, 11, 3, 3, 10, 10),
        "ramp_up": (4, 6, 7, 9, 10, 12),
        "ramp_down": (12, 10, 9, 7, 6, 4),
        "zigzag": (12, 4, 12, 4, 12, 4),
    }


def test_random_fills_up_to_the_size() -> None:
    space = space_of((2,) * 10, 16, 0.5)
    starts = start_population(space, START_KINDS, 20, seed=3)
    assert len(starts) == 20
    assert starts == start_population(space, START_KINDS, 20, seed=3)
    assert starts[:8] == start_population(space, START_KINDS, 20, seed=4)[:8]
    assert starts[8:] != start_population(space, START_KINDS, 20, seed=4)[8:]


def test_given_starts_come_first_and_are_projected() -> None:
    space = space_of((1, 1, 1), 4, 0.5)
    starts = start_population(space, ("uniform",), 20, 0, given=[(4, 2, 0), (4, 4, 4), (2, 2, 2)])
    assert starts == [(4, 2, 0), (2, 2, 2)]


@pytest.mark.parametrize("given_start", [(1, 2), (1, 2, 3, 0), (1.5, 2.5, 2)])
def test_a_given_start_of_another_shape_is_refused(given_start: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="one whole level for each of 3 stages"):
        start_population(space_of((1, 1, 1), 4, 0.5), START_KINDS, 20, 0, given=[given_start])


def test_no_start_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no start"):
        start_population(space_of((1, 1, 1), 4, 0.5), (), 20, 0)


def test_a_space_of_one_schedule_has_one_start() -> None:
    assert start_population(space_of((1, 1, 1), 4, 1.0), START_KINDS, 20, 0) == [(4, 4, 4)]
