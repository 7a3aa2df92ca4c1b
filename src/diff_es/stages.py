"""Stages: contiguous timestep ranges of the denoising run, index 0 at the low-noise end.

A plan splits the *sampler's own steps* evenly. With evenly spaced timesteps the borders are the paper's uniform
split of [0, T). With Karras sigmas or a shifted flow schedule a uniform split of timesteps would leave stages
empty, so the borders then lie half-way between the neighbouring steps of two stages.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from diff_es.errors import InputError

#: A timestep that reaches a bfloat16 denoiser is off by up to 2⁻⁸ of its value: 3.9 of 1000.
_ROUNDING = 4.0


@dataclass(frozen=True)
class StagePlan:
    """Which timesteps belong to which stage.

    Attributes:
        timesteps: The sampler's timesteps in train units, in sampling order (noisiest first).
        stage_of_step: The stage of each of `timesteps`, from num_stages - 1 down to 0.
        borders: num_stages + 1 ascending timesteps; stage i covers [borders[i], borders[i + 1]).
    """

    timesteps: tuple[float, ...]
    stage_of_step: tuple[int, ...]
    borders: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.timesteps) != len(self.stage_of_step) or not self.timesteps:
            raise InputError("StagePlan needs as many entries in stage_of_step as in timesteps, and at least one.")
        if any(low >= high for low, high in pairwise(self.borders)):
            raise InputError(f"StagePlan.borders={self.borders} must ascend strictly.")
        if set(self.stage_of_step) != set(range(self.num_stages)):
            empty = sorted(set(range(self.num_stages)) - set(self.stage_of_step))
            raise InputError(f"Stages {empty} contain no sampler step; use fewer stages or more steps.")
        if any(later > earlier for earlier, later in pairwise(self.stage_of_step)):
            raise InputError("StagePlan.stage_of_step must not increase in sampling order.")

    @classmethod
    def split(cls, timesteps: tuple[float, ...], num_stages: int, num_train_timesteps: int = 1000) -> StagePlan:
        """Split the sampler's steps evenly.

        Args:
            timesteps: The sampler's timesteps, noisiest first, in [0, num_train_timesteps].
            num_stages: Number of stages, 1 to len(timesteps).
            num_train_timesteps: T, the upper end of the train units.

        Raises:
            InputError: a stage would contain no step.
        """
        steps = len(timesteps)
        if not 1 <= num_stages <= steps:
            raise InputError(
                f"num_stages={num_stages} does not fit a sampler of {steps} steps: every stage needs at least one "
                f"step. Use 1 to {steps} stages, or more inference steps."
            )
        # Samplers of second order (Heun, PNDM) visit a timestep twice. The denoiser sees only the timestep, so both
        # visits belong to the stage of the first.
        first = {t: steps - 1 - k for k, t in reversed(list(enumerate(timesteps)))}
        stage_of_step = tuple(first[t] * num_stages // steps for t in timesteps)
        uniform = tuple(num_train_timesteps * i / num_stages for i in range(num_stages + 1))
        if all(_stage_between(uniform, t) == s for t, s in zip(timesteps, stage_of_step, strict=True)):
            return cls(timesteps, stage_of_step, uniform)
        return cls(timesteps, stage_of_step, _midway(timesteps, stage_of_step, num_train_timesteps))

    @property
    def num_stages(self) -> int:
        """Number of stages n."""
        return len(self.borders) - 1

    @property
    def steps_per_stage(self) -> tuple[int, ...]:
        """Sampler steps in each stage, the weights w_i of the budget (stage 0 first)."""
        return tuple(self.stage_of_step.count(stage) for stage in range(self.num_stages))

    def stage_at(self, timestep: float) -> int:
        """Return the stage of a timestep in train units, also of one rounded by half precision.

        The value is matched to the nearest of the plan's own steps where one lies within rounding; any other
        timestep (another step count, a calibration draw) is placed by the borders.
        """
        distances = np.abs(np.asarray(self.timesteps) - timestep)
        nearest = int(distances.argmin())
        if distances[nearest] <= _ROUNDING:
            return self.stage_of_step[nearest]
        return _stage_between(self.borders, timestep)


def _stage_between(borders: tuple[float, ...], timestep: float) -> int:
    """Place a timestep by the borders; the ends are clamped (flow samplers start at exactly T)."""
    return min(max(bisect_right(borders, timestep) - 1, 0), len(borders) - 2)


def _midway(timesteps: tuple[float, ...], stages: tuple[int, ...], num_train_timesteps: int) -> tuple[float, ...]:
    """Borders half-way between the neighbouring steps of two stages."""
    steps = zip(pairwise(timesteps), pairwise(stages), strict=True)
    inner = [(high + low) / 2 for (high, low), (upper, lower) in steps if upper != lower]
    return (0.0, *reversed(inner), float(num_train_timesteps))
