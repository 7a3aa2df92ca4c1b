"""Pruning schedules, the space they are searched in, and the map from stage levels to layer levels.

A *level* is an integer 0…H. The genome of the search is one level per stage. An *allocation* says which layer
levels a stage level stands for, so the same genome can mean the paper's uniform share of every layer or one that
spares sensitive layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from diff_es.errors import InputError

#: One level per stage, stage 0 (the low-noise end) first.
Levels: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class PruningSchedule:
    """How much is pruned where: what the router executes.

    Attributes:
        levels: Stage levels, stage 0 first.
        layers: Names of the layers, in the order of the denoiser.
        layer_levels: For each stage, the level of each layer of `layers`.
        num_levels: H, the level at which a layer is gone.
        allocation: Name of the allocation that the layer levels came from; empty where they were given by hand.
    """

    levels: Levels
    layers: tuple[str, ...]
    layer_levels: tuple[Levels, ...]
    num_levels: int
    allocation: str = ""

    def __post_init__(self) -> None:
        if len(self.layer_levels) != len(self.levels):
            raise InputError(f"{len(self.levels)} stage levels but layer levels of {len(self.layer_levels)} stages.")
        if any(not 0 <= level <= self.num_levels for level in self.levels):
            raise InputError(f"levels={self.levels} must lie in 0…{self.num_levels}.")
        for stage, row in enumerate(self.layer_levels):
            if len(row) != len(self.layers):
                raise InputError(f"Stage {stage} has {len(row)} layer levels for {len(self.layers)} layers.")
            if any(not 0 <= level <= self.num_levels for level in row):
                raise InputError(f"Stage {stage} has a layer level outside 0…{self.num_levels}: {row}.")

    @property
    def num_stages(self) -> int:
        """Number of stages n."""
        return len(self.levels)


@dataclass(frozen=True)
class Allocation:
    """The map (stage, stage level) → layer levels.

    Attributes:
        name: How it was made ("uniform" or "sensitivity").
        layers: Names of the layers, in the order of the denoiser.
        table: For each stage and each level 0…H, the level of each layer.
    """

    name: str
    layers: tuple[str, ...]
    table: tuple[tuple[Levels, ...], ...]

    def __post_init__(self) -> None:
        if not self.table or not self.table[0]:
            raise InputError("Allocation.table is empty; it needs one row per level and stage.")
        for stage, rows in enumerate(self.table):
            if len(rows) != len(self.table[0]):
                raise InputError(f"Stage {stage} has {len(rows)} levels, stage 0 has {len(self.table[0])}.")
            if any(len(row) != len(self.layers) for row in rows):
                raise InputError(f"Stage {stage} has a row that does not hold {len(self.layers)} layer levels.")

    @classmethod
    def uniform(cls, layers: Sequence[str], num_stages: int, num_levels: int) -> Allocation:
        """Every layer of a stage at the stage's own level: the paper's choice."""
        row = tuple(tuple(level for _ in layers) for level in range(num_levels + 1))
        return cls("uniform", tuple(layers), tuple(row for _ in range(num_stages)))

    @property
    def num_levels(self) -> int:
        """H, the highest level."""
        return len(self.table[0]) - 1

    def resolve(self, levels: Levels) -> PruningSchedule:
        """Return the pruning schedule that these stage levels stand for.

        Raises:
            InputError: another number of stages, or a level outside 0…H.
        """
        if len(levels) != len(self.table):
            raise InputError(f"{len(levels)} levels for an allocation of {len(self.table)} stages.")
        if any(not 0 <= level <= self.num_levels for level in levels):
            raise InputError(f"levels={levels} must lie in 0…{self.num_levels}.")
        layer_levels = tuple(rows[level] for rows, level in zip(self.table, levels, strict=True))
        return PruningSchedule(tuple(levels), self.layers, layer_levels, self.num_levels, self.name)


@dataclass(frozen=True)
class ScheduleSpace:
    """All stage levels that meet the budget G(L) = Σ w_i L_i / H, with w_i the share of denoiser calls in stage i.

    The budget is kept in integers, `required` call-levels, and is never undercut. With equal numbers of calls in its n
    stages every schedule removes the same: the next multiple of 1/(n H), see `least`. With unequal ones a schedule may
    exceed the budget by less than one level of its longest stage.

    Attributes:
        calls: Sampler steps in each stage, stage 0 first.
        num_levels: H, the level at which a layer is gone.
        sparsity: The budget, in [0, 1]: the share of the prunable groups to remove, averaged over denoiser calls.
        max_levels: The highest level that each stage may take, each in 0…H.
    """

    calls: tuple[int, ...]
    num_levels: int
    sparsity: float
    max_levels: Levels

    def __post_init__(self) -> None:
        if not self.calls or min(self.calls) < 1:
            raise InputError(f"calls={self.calls}: every stage needs at least one denoiser call.")
        if not 0 <= self.sparsity <= 1:
            raise InputError(f"sparsity={self.sparsity} must lie in [0, 1] (0.5 removes half of the prunable MACs).")
        if len(self.max_levels) != len(self.calls):
            raise InputError(f"max_levels={self.max_levels} must hold one level for each of {len(self.calls)} stages.")
        if any(not 0 <= level <= self.num_levels for level in self.max_levels):
            raise InputError(f"max_levels={self.max_levels} must lie in 0…{self.num_levels}.")
        most = self.spent(self.max_levels)
        if most < self.required:
            share = most / (self.num_levels * sum(self.calls))
            raise InputError(
                f"sparsity={self.sparsity} is infeasible: with every stage at its highest level {self.max_levels} "
                f"of H={self.num_levels} only {share:.4f} can be removed. Lower sparsity or raise max_levels."
            )

    @property
    def num_stages(self) -> int:
        """Number of stages n."""
        return len(self.calls)

    @property
    def required(self) -> int:
        """The budget in call-levels: Σ calls_i · L_i must reach it."""
        exact = self.sparsity * self.num_levels * sum(self.calls)
        return math.ceil(exact - 1e-9)

    @property
    def least(self) -> float:
        """What every schedule removes at least: the budget in whole levels. Stages of equal length remove just that."""
        one = math.gcd(*self.calls)
        return math.ceil(self.required / one) * one / (self.num_levels * sum(self.calls))

    def spent(self, levels: Levels) -> int:
        """Return Σ calls_i · L_i."""
        return sum(count * level for count, level in zip(self.calls, levels, strict=True))

    def removed(self, levels: Levels) -> float:
        """Return G(L), the share of prunable groups removed, averaged over denoiser calls."""
        return self.spent(levels) / (self.num_levels * sum(self.calls))

    def contains(self, levels: Levels) -> bool:
        """Whether these levels lie within the bounds and meet the budget."""
        bounded = all(0 <= level <= cap for level, cap in zip(levels, self.max_levels, strict=True))
        return bounded and 0 <= self.spent(levels) - self.required < max(self.calls)

    def uniform(self) -> Levels:
        """Return the schedule nearest to one level for all stages."""
        return self.project([self.sparsity * self.num_levels] * self.num_stages)

    def project(self, wanted: Sequence[float]) -> Levels:
        """Return levels that meet the budget, near the wanted (possibly fractional) ones.

        The wanted levels are first shifted by one common amount until their clipped mean meets the budget, then
        rounded; what rounding leaves over goes to the stages that are furthest from what they were to get.
        """
        target = self._shift(wanted)
        levels = [int(level) for level in target]
        while self.spent(tuple(levels)) < self.required:
            room = [i for i, cap in enumerate(self.max_levels) if levels[i] < cap]
            levels[max(room, key=lambda i: (target[i] - levels[i], -i))] += 1
        while lowerable := [i for i, level in enumerate(levels) if level and self.calls[i] <= self._excess(levels)]:
            levels[max(lowerable, key=lambda i: (levels[i] - target[i], -i))] -= 1
        return tuple(levels)

    def _excess(self, levels: Sequence[int]) -> int:
        return self.spent(tuple(levels)) - self.required

    def _shift(self, wanted: Sequence[float]) -> list[float]:
        """Add one constant to every wanted level (bisection) so that the clipped levels spend the budget."""

        def clipped(shift: float) -> list[float]:
            return [
                min(max(level + shift, 0.0), float(cap)) for level, cap in zip(wanted, self.max_levels, strict=True)
            ]

        low, high = -2.0 * max(1.0, *map(abs, wanted)), self.num_levels + 2.0 * max(1.0, *map(abs, wanted))
        for _ in range(60):
            middle = (low + high) / 2
            spent = sum(count * level for count, level in zip(self.calls, clipped(middle), strict=True))
            low, high = (middle, high) if spent < self.required else (low, middle)
        # Bisection ends a hair beside whole numbers; 9 decimals keep int() from flooring 4.0 to 3.
        return [round(level, 9) for level in clipped(high)]


def groups_removed(num_groups: int, num_levels: int) -> tuple[int, ...]:
    """Return how many of a layer's groups are gone at each level: l/H of them, halves rounded up.

    The rounding is done in integers, because a float quotient would round 0.5 differently from case to case. With
    8 heads and H = 16, levels 1 and 2 remove one head, 3 and 4 two, and so on; with H = 8 every level removes one.

    Args:
        num_groups: Groups of the layer (heads, channels or blocks), at least 1.
        num_levels: H, the highest level, at least 1.

    Returns:
        H + 1 non-decreasing counts, from 0 at level 0 to `num_groups` at level H.

    Raises:
        InputError: either number is below 1.
    """
    for argument, value in (("num_groups", num_groups), ("num_levels", num_levels)):
        if value < 1:
            raise InputError(f"{argument}={value} must be at least 1.")
    return tuple((2 * level * num_groups + num_levels) // (2 * num_levels) for level in range(num_levels + 1))
