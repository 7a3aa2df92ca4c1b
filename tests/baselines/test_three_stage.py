"""The hand-made three-stage schedule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from searches import plan_of

from diff_es.baselines import three_stage
from diff_es.schedule import ScheduleSpace
from search.spaces import space_of, spaces


def test_the_documented_shares_meet_the_budget_exactly() -> None:
    """Ten stages of H = 10 at half: 7 above timestep 600, 5 below 200, 3 between."""
    space = space_of((2,) * 10, 10, 0.5)
    assert three_stage(plan_of(space), space) == (5, 5, 3, 3, 3, 3, 7, 7, 7, 7)


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.44, 0.5, 0.7])
def test_the_beginning_is_pruned_most_and_the_middle_least(sparsity: float) -> None:
    space = space_of((2,) * 10, 16, sparsity)
    levels = three_stage(plan_of(space), space)
    assert max(levels[2:6]) <= min(levels[:2]) <= max(levels[:2]) <= min(levels[6:])
    assert max(levels[2:6]) < min(levels[6:])


@given(spaces())
@settings(deadline=None)
def test_the_budget_is_met_in_any_space(space: ScheduleSpace) -> None:
    assert space.contains(three_stage(plan_of(space), space))
