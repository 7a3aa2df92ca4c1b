"""Routed pipelines of every family: per-stage pruned models, saved and loaded, copied, offloaded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from diff_es.bank import Bank
from diff_es.denoisers import denoiser_of, spec_of
from diff_es.routing import apply_, is_routed, load, remove_, routed, save
from families.oracles import pruned_model
from pipelines.prepared import fresh, latents_of, mixed, obs_bank, routed_latents, settings_of
from pipelines.registry import PIPELINES, TinyPipeline
from support import same_state, snapshot

#: Variants of a pipeline differ in samplers and guidance alone.
ONE_EACH = tuple({own.name.partition(",")[0]: own for own in reversed(PIPELINES)}.values())
every_pipeline = pytest.mark.parametrize("own", ONE_EACH, ids=lambda own: own.name)


@contextmanager
def dispatched(pipe: Any, bank: Bank) -> Iterator[None]:
    """Let the pipeline call, at each timestep, the physically pruned model of its stage."""
    denoiser = denoiser_of(pipe)
    schedule, spec = mixed(bank), spec_of(denoiser)
    models = [pruned_model(denoiser, bank, stage, schedule) for stage in range(schedule.num_stages)]

    def forward(*args: Any, **kwargs: Any) -> Any:
        return models[bank.plan.stage_at(spec.timestep(denoiser, args, kwargs))](*args, **kwargs)

    denoiser.forward = forward
    try:
        yield
    finally:
        del denoiser.forward


@every_pipeline
def test_a_routed_pipeline_is_one_that_calls_the_pruned_model_of_each_stage(own: TinyPipeline) -> None:
    pipe, bank = fresh(own), obs_bank(own)
    dense = latents_of(own, pipe)  # diffusers notes on the denoiser that it may have a cache
    before = snapshot(denoiser_of(pipe))
    with dispatched(pipe, bank):
        expected = latents_of(own, pipe)
    assert torch.equal(routed_latents(own), expected)
    assert not torch.equal(expected, dense)
    with routed(pipe, bank, mixed(bank)):
        latents_of(own, pipe)
    assert same_state(denoiser_of(pipe), before)
    assert torch.equal(latents_of(own, pipe), dense)


@every_pipeline
def test_an_artefact_gives_the_same_images_in_another_pipeline(own: TinyPipeline, tmp_path: Path) -> None:
    bank = obs_bank(own)
    save(tmp_path / "pruned", fresh(own), bank, mixed(bank), sampler=settings_of(own), base_model="tiny")
    other = fresh(own)
    load(tmp_path / "pruned", other)
    assert torch.equal(latents_of(own, other), routed_latents(own))


@every_pipeline
def test_a_copy_of_a_routed_pipeline_is_independent(own: TinyPipeline) -> None:
    pipe, bank = fresh(own), obs_bank(own)
    dense = latents_of(own, pipe)
    apply_(pipe, bank, mixed(bank))
    first, second = copy.deepcopy(pipe), copy.deepcopy(pipe)
    remove_(first)
    for parameter in denoiser_of(second).parameters():
        parameter.zero_()
    assert is_routed(pipe)
    assert torch.equal(latents_of(own, pipe), routed_latents(own))
    assert torch.equal(latents_of(own, first), dense)


@pytest.mark.parametrize("offload_first", [True, False], ids=["offload first", "routing first"])
@every_pipeline
def test_model_offload_in_both_orders(own: TinyPipeline, offload_first: bool) -> None:
    """The CPU stands for the GPU; offload replaces the denoiser's forward after each run of the pipeline."""
    pipe, bank = fresh(own), obs_bank(own)
    if offload_first:
        pipe.enable_model_cpu_offload(device="cpu")
        latents_of(own, pipe)
    apply_(pipe, bank, mixed(bank))
    if not offload_first:
        pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.equal(latents_of(own, pipe), routed_latents(own))
