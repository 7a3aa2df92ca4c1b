"""Dynamic programming on scores that are taken one stage at a time.

Every stage is pruned alone, all others dense, and the fitness of each of its levels measured. If the stages did not
influence each other, fitness would be the dense one plus what each stage adds to it; the schedule that is best under
that assumption is found exactly. What is left of the evaluations goes to the next-best schedules under it, in order.

The schedules of single stages prune less than the budget; they are evaluated and counted, but cannot be the result.

Where the evaluations do not suffice for every level, each stage is measured at evenly spaced levels up to its cap
and the scores between are interpolated. A level of unusable fitness is avoided as long as the budget can be met
without it. An infinite fitness (PSNR of the dense images with themselves) counts as the highest finite one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from diff_es.baselines.config import BaselineConfig
from diff_es.baselines.proposals import Proposals
from diff_es.baselines.ranked import ranked_schedules
from diff_es.errors import InputError
from diff_es.schedule import Levels, ScheduleSpace

#: Scores are whole multiples of this share of their span, so that sums are exact.
_RESOLUTION = 2**-40


def stagewise_dp(space: ScheduleSpace, config: BaselineConfig) -> Proposals:
    """Propose the uniform schedule, the single-stage ones, then schedules by falling sum of stage scores.

    Args:
        space: Budget and bounds.
        config: Number of evaluations, and how many schedules are proposed at a time.

    Raises:
        InputError: too few evaluations to measure each stage once.
    """
    yield [space.uniform()]
    singles = single_stages(space, config.evaluations)
    told = yield [levels for row in singles for levels in row.values()]
    ranked = ranked_schedules(space, stage_scores(space, singles, told))
    while batch := list(islice(ranked, config.offspring)):
        yield batch


def single_stages(space: ScheduleSpace, evaluations: int) -> list[dict[int, Levels]]:
    """Return, for each stage, the levels to measure and the schedules that prune it alone; level 0 is the dense one.

    Args:
        space: Budget and bounds.
        evaluations: All evaluations of the search. The uniform schedule, the dense one and at least one that comes
            out of the scores need one each.

    Raises:
        InputError: too few evaluations to measure each stage once.
    """
    left = evaluations - 3
    counts = [n for n in range(1, space.num_levels + 1) if sum(min(n, cap) for cap in space.max_levels) <= left]
    if not counts:
        least = sum(cap > 0 for cap in space.max_levels) + 3
        raise InputError(
            f"evaluations={evaluations}: stagewise-dp needs at least {least} for {space.num_stages} stages."
        )
    return [
        {level: _alone(space, stage, level) for level in _spread(cap, counts[-1])}
        for stage, cap in enumerate(space.max_levels)
    ]


def stage_scores(
    space: ScheduleSpace, singles: Sequence[Mapping[int, Levels]], told: Mapping[Levels, float]
) -> list[list[int]]:
    """Return the score of every level of every stage: its fitness, scaled to [0, 2⁴⁰] over all that was measured.

    Args:
        space: Budget and bounds.
        singles: For each stage, the measured levels and their schedules.
        told: Fitness of those schedules.
    """
    finite = [fitness for fitness in told.values() if math.isfinite(fitness)] or [0.0]
    low, high = min(finite), max(finite)
    # Halves: the span of fitness values near the largest float would overflow.
    span = (high / 2 - low / 2) or 1.0
    rows = []
    for cap, row in zip(space.max_levels, singles, strict=True):
        values = [
            (min(told[levels], high) / 2 - low / 2) / span if told[levels] > -math.inf else -(space.num_stages + 1.0)
            for levels in row.values()
        ]
        score = np.interp(np.arange(cap + 1), list(row), values)
        rows.append([round(value / _RESOLUTION) for value in score.tolist()])
    return rows


def _alone(space: ScheduleSpace, stage: int, level: int) -> Levels:
    return tuple(level if i == stage else 0 for i in range(space.num_stages))


def _spread(cap: int, count: int) -> list[int]:
    """Return 0 and `count` (at most `cap`) evenly spaced levels up to `cap`."""
    count = min(count, cap)
    return [0, *(-(-cap * k // count) for k in range(1, count + 1))]
