"""Schedule spaces for the tests: some named, some drawn by hypothesis, and all schedules of a small one."""

from __future__ import annotations

import functools
import itertools

from hypothesis import strategies as st

from diff_es.schedule import Levels, ScheduleSpace


def space_of(calls: tuple[int, ...], num_levels: int, sparsity: float) -> ScheduleSpace:
    """A space without caps."""
    return ScheduleSpace(calls, num_levels, sparsity, (num_levels,) * len(calls))


@functools.lru_cache
def all_schedules(space: ScheduleSpace) -> tuple[Levels, ...]:
    """Every schedule of a small space, by brute force."""
    boxes = itertools.product(*(range(cap + 1) for cap in space.max_levels))
    return tuple(levels for levels in boxes if space.contains(levels))


@st.composite
def spaces(draw: st.DrawFn, max_stages: int = 8, max_calls: int = 6) -> ScheduleSpace:
    """Feasible spaces: equal and unequal calls, caps, any sparsity that the caps allow."""
    stages = draw(st.integers(1, max_stages))
    num_levels = draw(st.integers(1, 16))
    equal = st.integers(1, max_calls).map(lambda count: (count,) * stages)
    calls = draw(st.one_of(equal, st.tuples(*[st.integers(1, max_calls)] * stages)))
    caps = draw(st.tuples(*[st.integers(0, num_levels)] * stages))
    most = sum(c * cap for c, cap in zip(calls, caps, strict=True)) / (num_levels * sum(calls))
    return ScheduleSpace(calls, num_levels, draw(st.floats(0, 1)) * most, caps)
