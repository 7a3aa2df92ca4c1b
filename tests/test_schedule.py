"""Pruning schedules, allocations and the space of schedules."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.schedule import Allocation, PruningSchedule, ScheduleSpace
from search.spaces import all_schedules, space_of, spaces

LAYERS = ("blocks.0.attn1", "blocks.0.ff", "blocks.1.attn1")


def test_the_uniform_allocation_gives_every_layer_the_level_of_its_stage() -> None:
    schedule = Allocation.uniform(LAYERS, num_stages=2, num_levels=4).resolve((1, 3))
    assert schedule == PruningSchedule((1, 3), LAYERS, ((1, 1, 1), (3, 3, 3)), 4, "uniform")
    assert schedule.num_stages == 2


def test_an_allocation_resolves_each_stage_by_its_own_table() -> None:
    table = (((0, 0), (2, 0), (2, 2)), ((0, 0), (0, 2), (2, 2)))
    assert Allocation("sensitivity", ("a", "b"), table).resolve((1, 1)).layer_levels == ((2, 0), (0, 2))


@pytest.mark.parametrize("levels", [(1,), (1, 2, 3), (1, 5), (-1, 2)])
def test_levels_that_an_allocation_does_not_know_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="levels"):
        Allocation.uniform(LAYERS, 2, 4).resolve(levels)


@pytest.mark.parametrize("table", [(), ((),), (((0, 0),), ((0, 0), (1, 1))), (((0, 0), (1,)),)])
def test_a_ragged_or_empty_allocation_is_refused(table: tuple[tuple[tuple[int, ...], ...], ...]) -> None:
    with pytest.raises(InputError):
        Allocation("mine", ("a", "b"), table)


@pytest.mark.parametrize(
    ("levels", "layer_levels"),
    [((1, 2), ((1, 1),)), ((1,), ((1,),)), ((1,), ((1, 5),)), ((1,), ((-1, 1),)), ((5,), ((1, 1),))],
)
def test_an_impossible_schedule_is_refused(levels: tuple[int, ...], layer_levels: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InputError):
        PruningSchedule(levels, ("a", "b"), layer_levels, 4)


def test_the_budget_of_equal_calls_is_the_mean_level_of_the_paper() -> None:
    space = space_of((2,) * 10, 16, 0.5)
    assert space.required == 160
    assert space.uniform() == (8,) * 10
    assert space.removed((16, 0) * 5) == 0.5
    assert space.contains((16, 0) * 5)
    assert not space.contains((16, 1) * 5)
    assert not space.contains((16, 0) * 4 + (15, 0))
    assert not space.contains((17, 0) * 4 + (12, 0))


def test_few_levels_of_few_stages_remove_more_than_was_asked_for() -> None:
    assert space_of((6,), 4, 0.3).least == 0.5
    assert space_of((2, 2, 2), 4, 0.3).least == pytest.approx(1 / 3)
    assert space_of((2,) * 10, 16, 0.5).least == 0.5
    assert space_of((3, 1), 4, 0.3).least == 5 / 16


@given(spaces(max_stages=4, max_calls=3))
def test_no_schedule_removes_less_than_the_budget_in_whole_levels(space: ScheduleSpace) -> None:
    removed = {space.removed(levels) for levels in (space.uniform(), *all_schedules(space)[:500])}
    assert min(removed) >= space.least - 1e-12 and space.least >= space.sparsity - 1e-9
    if len(set(space.calls)) == 1:
        assert max(removed) == pytest.approx(space.least)


def test_unequal_calls_weigh_the_levels() -> None:
    space = space_of((3, 1), 4, 0.5)
    assert space.removed((2, 2)) == space.removed((1, 5)) == 0.5
    assert set(all_schedules(space)) == {(2, 2), (2, 3), (2, 4), (3, 0), (3, 1)} | {
        (a, b) for a in range(5) for b in range(5) if 8 <= 3 * a + b < 11
    }


@pytest.mark.parametrize(
    ("calls", "sparsity", "caps", "message"),
    [
        ((2, 2), 0.6, (4, 4), r"sparsity=0.6 is infeasible: .* only 0.5000 can be removed"),
        ((), 0.5, (), "at least one denoiser call"),
        ((2, 0), 0.5, (8, 8), "at least one denoiser call"),
        ((2, 2), 1.5, (8, 8), "sparsity=1.5"),
        ((2, 2), math.nan, (8, 8), "sparsity=nan"),
        ((2, 2), 0.5, (8,), "one level for each of 2 stages"),
        ((2, 2), 0.5, (8, 9), r"must lie in 0…8"),
    ],
)
def test_an_impossible_space_is_refused(
    calls: tuple[int, ...], sparsity: float, caps: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ScheduleSpace(calls, 8, sparsity, caps)


def test_the_whole_of_the_caps_is_feasible() -> None:
    assert ScheduleSpace((2, 2), 8, 0.5, (4, 4)).uniform() == (4, 4)


@given(spaces(), st.data())
def test_projection_lands_in_the_space(space: ScheduleSpace, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.floats(-20, 40), min_size=space.num_stages, max_size=space.num_stages))
    assert space.contains(space.project(wanted))


@given(spaces())
def test_uniform_is_in_the_space_and_even(space: ScheduleSpace) -> None:
    levels = space.uniform()
    assert space.contains(levels)
    if len(set(space.calls)) == 1:
        free = [level for level, cap in zip(levels, space.max_levels, strict=True) if level < cap]
        assert not free or max(levels) - min(free) <= 1


@given(spaces(max_stages=4), st.data())
def test_projection_keeps_what_is_in_the_space_already(space: ScheduleSpace, data: st.DataObject) -> None:
    assume(len(set(space.calls)) == 1)
    levels = space.project([data.draw(st.floats(0, 16)) for _ in space.calls])
    assert space.project(levels) == levels


@given(st.tuples(*[st.integers(1, 3)] * 3), st.floats(0, 1), st.lists(st.floats(0, 5), min_size=3, max_size=3))
def test_projection_of_equal_calls_is_nearest(calls: tuple[int, ...], sparsity: float, wanted: list[float]) -> None:
    """By brute force: no schedule of the space is nearer (least squares), for equal calls."""
    space = space_of((calls[0],) * 3, 5, sparsity)

    def distance(levels: tuple[int, ...]) -> float:
        return sum((level - want) ** 2 for level, want in zip(levels, wanted, strict=True))

    assert distance(space.project(wanted)) <= min(map(distance, all_schedules(space))) + 1e-6
