"""Random search: the uniform schedule, then different random compositions."""

from __future__ import annotations

from collections.abc import Container
from itertools import count

import numpy as np

from diff_es.baselines.config import BaselineConfig
from diff_es.baselines.proposals import Proposals
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import draw_unseen, random_composition

#: A composition that was seen before is drawn again at most this often.
_MAX_REDRAWS = 200


def random_search(space: ScheduleSpace, config: BaselineConfig) -> Proposals:
    """Propose different random compositions, drawn as those of the evolutionary search are.

    The uniform schedule comes first: every search knows it, and its result is then never worse than it. The search
    ends early where draws find nothing new.

    Args:
        space: Budget and bounds.
        config: Seed and size of a batch.
    """
    seen: set[Levels] = {space.uniform()}
    yield [space.uniform()]
    for batch in count(1):
        fresh = []
        for child in range(config.offspring):
            levels = draw_new(space, np.random.default_rng([config.seed, batch, child]), seen)
            if levels is None:
                break
            seen.add(levels)
            fresh.append(levels)
        if not fresh:
            return
        yield fresh


def draw_new(space: ScheduleSpace, rng: np.random.Generator, seen: Container[Levels]) -> Levels | None:
    """Draw a random composition that was not seen before; None where none turns up.

    Args:
        space: Budget and bounds.
        rng: Source of the draws.
        seen: Schedules to avoid.
    """
    return draw_unseen(lambda: random_composition(space, rng), 1 + _MAX_REDRAWS, seen)
