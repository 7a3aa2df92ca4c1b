"""Calibration statistics and banks of every family, made once; schedules in which layers and stages differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from diff_es.bank import Bank
from diff_es.calibration import CalibrationConfig, CalibrationStats, calibrate
from diff_es.denoisers import Call, Layer, denoiser_of, spec_of
from diff_es.pruning import BankConfig, build_bank
from diff_es.schedule import PruningSchedule
from diff_es.stages import StagePlan
from families.family import Family
from support import PLAN, timestep_in

#: With four heads and H = 8, level 7 leaves no head and an eighth of the channels.
LEVELS = 8
STAGES = range(PLAN.num_stages)


@dataclass(frozen=True)
class Calls:
    """A calibration source: the family's own call at every step of the stage."""

    family: Family

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        for timestep in plan.timesteps:
            if stage is None or plan.stage_at(timestep) == stage:
                yield self.family.call(timestep)


@cache
def stats_of(family: Family) -> CalibrationStats:
    return calibrate(family.pipe(), Calls(family), CalibrationConfig(PLAN))


@cache
def bank_of(family: Family, method: str, levels: int = LEVELS) -> Bank:
    """A bank of one of `support.METHODS`."""
    name, _, intercept = method.partition("+")
    config = BankConfig(name, levels, intercept=bool(intercept))
    with torch.no_grad():
        return build_bank(family.pipe(), stats_of(family), PLAN, config)


def call_in(family: Family, stage: int) -> Call:
    """A call at a sampler step of the stage."""
    return family.call(timestep_in(stage))


def layers_of(denoiser: Any, *, blocks: bool = False) -> tuple[Layer, ...]:
    return spec_of(denoiser).layers(denoiser, blocks=blocks)


def denoiser_in(pipe: Any) -> Any:
    return denoiser_of(pipe)


def level(bank: Bank, *levels: int) -> PruningSchedule:
    """Every layer of a stage at the stage's level."""
    return bank.uniform_allocation().resolve(levels or (bank.num_levels,) * PLAN.num_stages)


def mixed(bank: Bank) -> PruningSchedule:
    """Every stage has layers at many levels, 0 and H among them."""
    count = bank.num_levels + 1
    rows = tuple(tuple((5 * index + 3 * stage + 1) % count for index in range(len(bank.layers))) for stage in STAGES)
    return PruningSchedule((0,) * PLAN.num_stages, bank.layers, rows, bank.num_levels)


def only(bank: Bank, rows: dict[str, int]) -> PruningSchedule:
    """Some layers at a level of their own in every stage, the others dense."""
    row = tuple(rows.get(name, 0) for name in bank.layers)
    return PruningSchedule((0,) * PLAN.num_stages, bank.layers, (row,) * PLAN.num_stages, bank.num_levels)
