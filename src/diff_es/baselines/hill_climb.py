"""Hill climbing by level switches, started again from a random composition wherever it is stuck.

The neighbours of a schedule are what one mutation of the evolutionary search can make of it: stage i rises by Δ,
stage j falls by Δ, Δ ≤ `max_mutation`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from diff_es.baselines.config import BaselineConfig
from diff_es.baselines.proposals import Proposals, fittest, usable
from diff_es.baselines.random_search import draw_new
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import level_switches


def hill_climb(space: ScheduleSpace, config: BaselineConfig, portion: int | None = 1) -> Proposals:
    """Climb from the uniform schedule to a local optimum, then from one random composition after the other.

    It ends early where random draws find nothing new: the space is used up.

    Args:
        space: Budget and bounds.
        config: Seed and largest level switch.
        portion: As in `climb`.
    """
    rng = np.random.default_rng(config.seed)
    seen: set[Levels] = set()
    start: Levels | None = space.uniform()
    while start is not None:
        _, visited = yield from climb(space, start, config.max_mutation, portion, rng)
        seen |= visited
        start = draw_new(space, rng, seen)


def climb(
    space: ScheduleSpace, start: Levels, max_mutation: int, portion: int | None, rng: np.random.Generator
) -> Generator[Sequence[Levels], Mapping[Levels, float], tuple[Levels, set[Levels]]]:
    """Climb to a local optimum; return it and all schedules that were looked at.

    Args:
        space: Budget and bounds.
        start: Where to start, a schedule of the space.
        max_mutation: Δmax, the most levels that a step moves.
        portion: How many neighbours, in random order, are evaluated before the best of them is taken if it is better
            than where the climb stands: 1 is "first improvement", None (all of them) "steepest ascent".
        rng: Source of the order.
    """
    told = yield [start]
    current, height, visited = start, usable(told[start]), {start}
    while True:
        neighbours = sorted(set(level_switches(space, current, max_mutation)) - {current})
        shuffled = [neighbours[index] for index in rng.permutation(len(neighbours))]
        size = portion or max(len(shuffled), 1)
        for first in range(0, len(shuffled), size):
            told = yield shuffled[first : first + size]
            visited.update(told)
            best = fittest(told)
            if usable(told[best]) > height:
                current, height = best, usable(told[best])
                break
        else:
            return current, visited
