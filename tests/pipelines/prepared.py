"""Pipelines, made once; banks for the stages of any sampler."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diff_es.bank import Bank
from diff_es.calibration import CalibrationConfig, CalibrationStats, SamplingSource, calibrate
from diff_es.fitness import run
from diff_es.pruning import BankConfig, build_bank
from diff_es.routing import routed
from diff_es.sampling import ImageRequests, SamplerConfig, any_requests
from diff_es.schedule import PruningSchedule
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan
from pipelines.registry import STAGES, STEPS, TinyPipeline, folder_of
from pipelines.samplers import Sampler

LEVELS = 4
_ANY_PLAN = StagePlan.split((750.0, 500.0, 250.0, 0.0), STAGES)


@cache
def _dense(own: TinyPipeline) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pipe = own.build(folder_of(own, Path(folder)))
    return pipe, pipe.scheduler


def pipe_with(own: TinyPipeline, sampler: Sampler | None = None) -> Any:
    """The pipeline with a sampler, or with its own; the same object every time: whoever changes it takes a copy."""
    pipe, scheduler = _dense(own)
    pipe.scheduler = scheduler
    if sampler is not None:
        sampler.put_into(pipe)
    return pipe


def fresh(own: TinyPipeline) -> Any:
    """A copy, with the first sampler, that a test may change."""
    return copy.deepcopy(pipe_with(own, own.samplers[0]))


def settings_of(own: TinyPipeline) -> SamplerConfig:
    return SamplerConfig(STEPS, own.scale)


def plan_of(pipe: Any, stages: int = STAGES) -> StagePlan:
    return stage_plan(pipe, stages, STEPS)


def requests_of(pipe: Any, count: int = 1) -> ImageRequests:
    return any_requests(pipe, count)


@cache
def _magnitude(own: TinyPipeline) -> Bank:
    stats = CalibrationStats(({},) * STAGES, STAGES)
    with torch.no_grad():
        return build_bank(_dense(own)[0], stats, _ANY_PLAN, BankConfig("magnitude", LEVELS))


def bank_of(own: TinyPipeline, plan: StagePlan) -> Bank:
    """A bank for the stages of a plan; pruning by magnitude does not depend on them."""
    bank = _magnitude(own)
    return Bank(replace(bank.info, plan=plan), bank.shards)


@cache
def obs_bank(own: TinyPipeline) -> Bank:
    """OBS, calibrated on the dense pipeline's own runs with its first sampler."""
    pipe = pipe_with(own, own.samplers[0])
    plan = plan_of(pipe)
    source = SamplingSource(requests_of(pipe, 2), settings_of(own), batch_size=2)
    stats = calibrate(pipe, source, CalibrationConfig(plan, collect=("second_moment",)))
    return build_bank(pipe, stats, plan, BankConfig("obs", LEVELS))


@cache
def layerdrop_bank(own: TinyPipeline) -> Bank:
    """Whole blocks, the first first; what they do to the image is not looked at."""
    pipe = pipe_with(own, own.samplers[0])
    plan = plan_of(pipe)
    source = SamplingSource(requests_of(pipe, 2), settings_of(own), batch_size=2)
    stats = calibrate(pipe, source, CalibrationConfig(plan, collect=("similarity",)))
    return build_bank(pipe, stats, plan, BankConfig("layerdrop", LEVELS))


def mixed(bank: Bank) -> PruningSchedule:
    """Every stage has layers at many levels, dense ones and the most pruned among them."""
    rows = tuple(
        tuple((3 * index + 2 * stage + 1) % (LEVELS + 1) for index in range(len(bank.layers)))
        for stage in range(STAGES)
    )
    return PruningSchedule((0,) * STAGES, bank.layers, rows, LEVELS)


def latents_of(own: TinyPipeline, pipe: Any) -> Tensor:
    """Sample once, without decoding."""
    return run(pipe, requests_of(pipe), settings_of(own), decode=False).latents


@cache
def routed_latents(own: TinyPipeline) -> Tensor:
    """What the pipeline gives when it is routed by `mixed` of its OBS bank."""
    bank = obs_bank(own)
    pipe = pipe_with(own, own.samplers[0])
    with routed(pipe, bank, mixed(bank)):
        return latents_of(own, pipe)
