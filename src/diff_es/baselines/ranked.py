"""All schedules of a space in the order of a score that is a sum over stages: dynamic programming, then best first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from diff_es.schedule import Levels, ScheduleSpace

#: Below every sum of scores; halves of it can still be added.
_NEVER = -(2**62)

IntArray = npt.NDArray[np.int64]


def ranked_schedules(space: ScheduleSpace, scores: Sequence[Sequence[int]]) -> Iterator[Levels]:
    """Yield the schedules of the space, the highest sum of scores first, of equal ones the smaller levels first.

    A schedule is built stage by stage. What the best completion of a partial one adds is known exactly from dynamic
    programming over (stage, call-levels spent), so the search goes straight to the best schedule and from there to
    the next ones, as far as the caller wants.

    Args:
        space: Budget and bounds.
        scores: For each stage, the score of each level 0…cap. Whole numbers, |score| < 2⁵⁰: their sums are exact, so
            that partial schedules compare as the finished ones do.
    """
    completions = _completions(space, scores)
    waiting: list[tuple[int, Levels, int, int]] = [(-int(completions[0][0]), (), 0, 0)]
    while waiting:
        _, levels, spent, score = heapq.heappop(waiting)
        stage = len(levels)
        if stage == space.num_stages:
            yield levels
            continue
        for level in range(space.max_levels[stage] + 1):
            total, cost = score + int(scores[stage][level]), spent + space.calls[stage] * level
            if cost < len(completions[stage + 1]) and completions[stage + 1][cost] > _NEVER // 2:
                bound = total + int(completions[stage + 1][cost])
                heapq.heappush(waiting, (-bound, (*levels, level), cost, total))


def _completions(space: ScheduleSpace, scores: Sequence[Sequence[int]]) -> list[IntArray]:
    """Return, for each stage, the best score of it and all later stages by call-levels that were spent before it."""
    most = space.required + max(space.calls)  # a schedule of the space spends less
    last = np.full(most, _NEVER, np.int64)
    last[space.required :] = 0
    tables = [last]
    for stage in reversed(range(space.num_stages)):
        best = np.full(most, _NEVER, np.int64)
        for level in range(space.max_levels[stage] + 1):
            cost = space.calls[stage] * level
            if cost < most:
                reached = tables[-1][cost:]
                # Not below _NEVER, which a negative score would otherwise overflow after many stages.
                added = np.where(reached > _NEVER // 2, reached + int(scores[stage][level]), _NEVER)
                best[: most - cost] = np.maximum(best[: most - cost], added)
        tables.append(best)
    return tables[::-1]
