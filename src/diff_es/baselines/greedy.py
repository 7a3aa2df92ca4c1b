"""Greedy search: raise one stage at a time, always the one that hurts least, until the budget is met.

The paper compares with "greedy search" (Table 11) and says of it only that as many schedules were evaluated and that
it is "more prone to getting stuck in a local optimum". We read this in both of its usual senses, one after the other:

1. *Construction.* Start dense. In each round evaluate every stage raised by one level and keep the raise after which
   fitness is highest. The schedules on the way prune less than the budget; the last one meets it. This takes about
   n · Σ L_i evaluations (800 for ten stages at 50 % of 16 levels). Where the evaluations do not suffice a raise is of
   as many levels as it takes for the construction to fit for certain; where not even whole stages at a time fit,
   the exchange starts from the uniform schedule.
2. *Exchange.* With what is left, take the best of all level switches of one level, as long as one is better, then the
   best of all of up to `max_mutation` levels. It ends, maybe early, at a local optimum: greedy search does not
   restart (hill-climb does).

Nothing is drawn at random but the order in which the switches of one step are evaluated; it matters only for the step
in which the evaluations run out.
"""

from __future__ import annotations

import numpy as np

from diff_es.baselines.config import BaselineConfig
from diff_es.baselines.hill_climb import climb
from diff_es.baselines.proposals import Proposals, fittest
from diff_es.schedule import Levels, ScheduleSpace


def greedy(space: ScheduleSpace, config: BaselineConfig) -> Proposals:
    """Propose the uniform schedule, the raises of the construction, and the switches of the exchange.

    Args:
        space: Budget and bounds.
        config: Number of evaluations and largest level switch.
    """
    levels = space.uniform()
    yield [levels]
    step = raise_step(space, config.evaluations - 1)
    if step is not None:
        levels = (0,) * space.num_stages
        while space.spent(levels) < space.required:
            levels = fittest((yield raises(space, levels, step)))
    for reach in (1, config.max_mutation):
        levels, _ = yield from climb(space, levels, reach, None, np.random.default_rng(config.seed))


def raises(space: ScheduleSpace, levels: Levels, step: int) -> list[Levels]:
    """Return the schedules in which one stage is raised by `step` levels, or by as few as its cap or the budget wants.

    Args:
        space: Budget and bounds.
        levels: Levels that do not meet the budget yet.
        step: Levels of a raise, at least 1.
    """
    missing = space.required - space.spent(levels)
    raised = []
    for stage, (level, cap) in enumerate(zip(levels, space.max_levels, strict=True)):
        if level < cap:
            target = min(level + step, cap, level - (-missing // space.calls[stage]))
            raised.append((*levels[:stage], target, *levels[stage + 1 :]))
    return raised


def raise_step(space: ScheduleSpace, evaluations: int) -> int | None:
    """Return the smallest raise with which the construction needs at most `evaluations`; None where none does.

    The number of rounds is bounded by taking the smallest raises first, whatever the fitness will say.

    Args:
        space: Budget and bounds.
        evaluations: Evaluations that the construction may use.
    """
    for step in range(1, space.num_levels + 1):
        sizes = []
        for calls, cap in zip(space.calls, space.max_levels, strict=True):
            whole, rest = divmod(cap, step)
            sizes += [calls * step] * whole + [calls * rest] * (rest > 0)
        rounds, missing = 0, space.required
        for size in sorted(sizes):
            if missing <= 0:
                break
            rounds, missing = rounds + 1, missing - size
        if rounds * sum(cap > 0 for cap in space.max_levels) <= evaluations:
            return step
    return None
