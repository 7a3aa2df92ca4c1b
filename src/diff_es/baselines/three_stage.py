"""A hand-made three-stage schedule, our reading of MosaicDiff (Guo et al., 2025).

MosaicDiff cuts the denoising run into three stages and prunes them by a fixed rule: steps at the beginning matter
least, those at the end more, those in the middle most. We read this as: timesteps of 600 and above are pruned most,
those below 200 next, those from 200 to 600 least, with shares of 7 : 5 : 3, which meet the budget exactly where the
three hold 40, 20 and 40 % of the steps. The levels are then projected to the exact budget of the other schedules.

Arxiv 2603.05105 re-implements the rule for FLUX with shares of 0.12, 0.02 and 0.25 (low-noise end first, as we read
it) on 25, 50 and 25 % of the steps: the same order, further apart. For a share of 20 %, it says; their mean is 10.25 %,
so we did not take them over.
"""

from __future__ import annotations

from diff_es.schedule import Levels, ScheduleSpace
from diff_es.stages import StagePlan

#: Borders as shares of the train timesteps, and the pruning of each part relative to the budget.
_END, _BEGINNING = 0.2, 0.6
_MOST, _NEXT, _LEAST = 1.4, 1.0, 0.6


def three_stage(plan: StagePlan, space: ScheduleSpace) -> Levels:
    """Return the three-stage schedule that meets the budget of `space`.

    Args:
        plan: The stages; each counts as the part that its mean timestep lies in.
        space: Budget and bounds.
    """
    budget = space.sparsity * space.num_levels
    return space.project([budget * _share(_mean_timestep(plan, i) / plan.borders[-1]) for i in range(plan.num_stages)])


def _share(timestep: float) -> float:
    if timestep >= _BEGINNING:
        return _MOST
    return _NEXT if timestep < _END else _LEAST


def _mean_timestep(plan: StagePlan, stage: int) -> float:
    own = [t for t, owner in zip(plan.timesteps, plan.stage_of_step, strict=True) if owner == stage]
    return sum(own) / len(own)
