"""Sensitivity allocation: spend a stage's budget where it hurts the denoiser's output least.

Per stage, every layer is pruned alone to every level and the error of the denoiser's output is measured on one
small batch. A stage level ℓ then stands for the layer levels of least summed error among all that cost no more MACs
than the uniform level ℓ, found exactly by dynamic programming over the layers. Same bank, same search space as the
uniform allocation: only the map (stage, level) → layer levels changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.allocation.knapsack import Frontier
from diff_es.calibration.sources import LiveSource
from diff_es.denoisers import (
    check_plain_calls,
    count_macs,
    dense_denoiser_of,
    num_rows,
    output_of,
    spec_of,
    take_rows,
)
from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.routing import Router, check_model
from diff_es.schedule import Allocation, Levels, PruningSchedule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.bank import Bank
    from diff_es.calibration import CalibrationSource
    from diff_es.denoisers import Call
    from diff_es.stages import StagePlan


@dataclass(frozen=True)
class Sensitivity:
    """What each layer's levels cost and hurt.

    Attributes:
        layers: Names of the layers.
        levels: The levels that were measured, from 0 to H; a block has only these two.
        errors: For each stage, layer and measured level, the mean squared error of the denoiser's output.
        macs: For each layer and measured level, the MACs that are left of the layer in one call on one sample.
    """

    layers: tuple[str, ...]
    levels: Levels
    errors: tuple[tuple[tuple[float, ...], ...], ...]
    macs: tuple[tuple[int, ...], ...]

    def allocation(self, uniform: Allocation) -> Allocation:
        """Return the allocation of least summed error that costs no more MACs than `uniform`, level by level."""
        stages = zip(self.errors, uniform.table, strict=True)
        table = tuple(self._stage_table(errors, rows) for errors, rows in stages)
        return Allocation("sensitivity", self.layers, table)

    def _stage_table(self, errors: Sequence[Sequence[float]], uniform: Sequence[Levels]) -> tuple[Levels, ...]:
        frontier = Frontier(self.macs, errors)
        chosen = (frontier.best(self._cost(row)) for row in uniform[1:])
        # Level 0 is the dense model by definition, also where pruning something would not hurt.
        return (uniform[0], *(tuple(self.levels[index] for index in row) for row in chosen))

    def _cost(self, row: Levels) -> int:
        return sum(macs[self.levels.index(level)] for macs, level in zip(self.macs, row, strict=True))


@torch.no_grad()
def measure_sensitivity(pipe: Any, bank: Bank, source: CalibrationSource, samples: int = 32) -> Sensitivity:
    """Prune every layer alone to every level and measure the error of the denoiser's output.

    Runs stages × layers × levels denoiser calls on one batch each.

    Args:
        pipe: The dense pipeline; it is dense again afterwards.
        bank: Its bank.
        source: Gives the denoiser calls of a stage; rows of the first one are used.
        samples: At most this many rows of that call, taken evenly.

    Raises:
        InputError: the source has no call in a stage.
        UnsupportedModelError: the bank belongs to another model, or the denoiser has a cache.
    """
    denoiser = dense_denoiser_of(pipe)
    check_model(denoiser, bank)
    check_plain_calls(denoiser, "Measuring layer errors")
    router = Router(denoiser, bank, mode="gather")
    highest = bank.num_levels
    levels = (0, highest) if bank.depth else tuple(range(highest + 1))
    calls = [_rows(denoiser, call, samples) for call in _first_calls(pipe, bank.plan, source)]
    try:
        macs = _macs(denoiser, router, _rows(denoiser, calls[0], 1), levels)
        stages = track(range(bank.plan.num_stages), "Measuring sensitivity")
        errors = tuple(_stage_errors(denoiser, router, calls[stage], stage, levels) for stage in stages)
    finally:
        router.point_at(None)
    return Sensitivity(bank.layers, levels, errors, macs)


def _first_calls(pipe: Any, plan: StagePlan, source: CalibrationSource) -> list[Call]:
    """The first call of every stage."""
    if isinstance(source, LiveSource):
        return source.first_calls(pipe, plan)
    calls = [next(iter(source.calls(pipe, plan, stage)), None) for stage in range(plan.num_stages)]
    if None in calls:
        raise InputError(f"The calibration source has no denoiser call in stage {calls.index(None)} of the bank.")
    return [call for call in calls if call is not None]


def _stage_errors(
    denoiser: nn.Module, router: Router, call: Call, stage: int, levels: Levels
) -> tuple[tuple[float, ...], ...]:
    router.point_at(None)
    dense = _output(denoiser, call)
    rows = []
    for layer in range(len(router.layers)):
        errors = [0.0]
        for level in levels[1:]:
            _prune_alone(router, stage, layer, level)
            errors.append(float((_output(denoiser, call) - dense).double().square().mean()))
        rows.append(tuple(errors))
    return tuple(rows)


def _macs(denoiser: nn.Module, router: Router, call: Call, levels: Levels) -> tuple[tuple[int, ...], ...]:
    """Count the MACs of one call with each layer alone at each level, less those with the layer gone."""
    rows = []
    for layer in range(len(router.layers)):
        totals = []
        for level in levels:
            _prune_alone(router, 0, layer, level)
            totals.append(count_macs(denoiser, call))
        rows.append(tuple(total - totals[-1] for total in totals))
    return tuple(rows)


def _prune_alone(router: Router, stage: int, layer: int, level: int) -> None:
    """Point the denoiser at one pruned layer, all others dense."""
    source = router.source
    row = tuple(level if index == layer else 0 for index in range(len(source.layers)))
    dense = (0,) * len(source.layers)
    rows = tuple(row if index == stage else dense for index in range(source.plan.num_stages))
    router.set_schedule(PruningSchedule((0,) * source.plan.num_stages, source.layers, rows, source.num_levels))
    router.point_at(stage)


def _output(denoiser: nn.Module, call: Call) -> Tensor:
    return output_of(denoiser(**{**call, "return_dict": False}))


def _rows(denoiser: nn.Module, call: Call, count: int) -> Call:
    """Take at most `count` rows of a call, evenly spread over the batch (both halves of a guided one)."""
    spec = spec_of(denoiser)
    total = num_rows(spec, call)
    return take_rows(spec, call, torch.linspace(0, total - 1, min(count, total)).long())
