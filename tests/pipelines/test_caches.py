"""Caches of features on a routed denoiser: First Block Cache begins anew with each stage, others are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_pyramid_attention_broadcast,
)

from diff_es.allocation import measure_sensitivity
from diff_es.calibration import CalibrationConfig, SamplingSource, calibrate
from diff_es.denoisers import denoiser_of, spec_of
from diff_es.errors import UnsupportedModelError
from diff_es.fitness import TrajectoryFitness
from diff_es.pruning import BankConfig, build_bank
from diff_es.routing import apply_, remove_, routed
from families.oracles import pruned_model
from pipelines.prepared import LEVELS, fresh, latents_of, mixed, obs_bank, plan_of, requests_of, settings_of
from pipelines.registry import PIPELINES, STAGES, TinyPipeline

DIT, FLUX, WAN, SDXL = (next(own for own in PIPELINES if own.name == name) for name in ("dit", "flux", "wan", "sdxl"))
#: What each family calls in its last block only when that block computes.
LAST = {FLUX: "single_transformer_blocks.0.proj_out", WAN: "blocks.1.ffn.net.2"}
cached_families = pytest.mark.parametrize("own", LAST, ids=lambda own: own.name)
#: Takes every step for like the one before.
ALWAYS = FirstBlockCacheConfig(threshold=1e9)


def computed(own: TinyPipeline, pipe: Any) -> int:
    """How many of the last block's calls one run computes."""
    calls: list[int] = []
    handle = denoiser_of(pipe).get_submodule(LAST[own]).register_forward_hook(lambda *_: calls.append(1))
    latents_of(own, pipe)
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("cache_first", [True, False], ids=["cache first", "routing first"])
@cached_families
def test_at_threshold_0_first_block_cache_changes_nothing(own: TinyPipeline, cache_first: bool) -> None:
    pipe, bank = fresh(own), obs_bank(own)
    with routed(pipe, bank, mixed(bank)):
        expected = latents_of(own, pipe)
    if cache_first:
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with routed(pipe, bank, mixed(bank)):
        if not cache_first:
            pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
        assert torch.equal(latents_of(own, pipe), expected)
        assert torch.equal(latents_of(own, pipe), expected)


@contextmanager
def dispatched(pipe: Any, bank: Any, config: FirstBlockCacheConfig) -> Iterator[None]:
    """Per stage a physically pruned model that has a cache of its own."""
    denoiser = denoiser_of(pipe)
    schedule, spec = mixed(bank), spec_of(denoiser)
    models = [pruned_model(denoiser, bank, stage, schedule) for stage in range(STAGES)]
    contexts: list[str] = []
    for model in models:
        model.enable_cache(config)
        model._reset_stateful_cache()
    plain = denoiser.cache_context

    @contextmanager
    def noted(name: str, **settings: Any) -> Iterator[None]:
        contexts.append(name)
        with plain(name, **settings):
            yield

    def forward(*args: Any, **kwargs: Any) -> Any:
        model = models[bank.plan.stage_at(spec.timestep(denoiser, args, kwargs))]
        with model.cache_context(contexts[-1]):
            return model(*args, **kwargs)

    denoiser.forward, denoiser.cache_context = forward, noted
    try:
        yield
    finally:
        del denoiser.forward, denoiser.cache_context


@cached_families
def test_each_stage_begins_with_a_call_in_full(own: TinyPipeline) -> None:
    """A threshold that lets everything pass: as if each stage's pruned model had a cache of its own."""
    pipe, bank = fresh(own), obs_bank(own)
    with routed(pipe, bank, mixed(bank)):
        without = latents_of(own, pipe)
    with dispatched(pipe, bank, ALWAYS):
        expected = latents_of(own, pipe)
    pipe.transformer.enable_cache(ALWAYS)
    assert computed(own, pipe) == own.calls_per_step, "dense, the first step alone is computed"
    with routed(pipe, bank, mixed(bank)):
        found = latents_of(own, pipe)
        assert torch.equal(found, expected)
        assert torch.equal(latents_of(own, pipe), expected), "the second run of the pipeline"
    assert not torch.equal(found, without)
    partly = bank.uniform_allocation().resolve((1, 2, 1))  # with level 4 the counted module may be gone
    with routed(pipe, bank, partly):
        assert computed(own, pipe) == STAGES * own.calls_per_step


@cached_families
def test_leaving_gives_back_the_dense_model_with_its_cache(own: TinyPipeline) -> None:
    pipe, bank = fresh(own), obs_bank(own)
    dense = latents_of(own, pipe)
    apply_(pipe, bank, mixed(bank))
    pipe.transformer.enable_cache(ALWAYS)
    latents_of(own, pipe)
    remove_(pipe)
    assert computed(own, pipe) == own.calls_per_step
    pipe.transformer.disable_cache()
    assert torch.equal(latents_of(own, pipe), dense)


def _timestep() -> int:
    return 500


OTHERS = [
    PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=_timestep),
    FasterCacheConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=_timestep, is_guidance_distilled=True
    ),
    TaylorSeerCacheConfig(),
]


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: type(config).__name__)
def test_caches_that_count_steps_are_refused(config: Any) -> None:
    pipe, bank = fresh(FLUX), obs_bank(FLUX)
    apply_(pipe, bank, mixed(bank))
    pipe.transformer.enable_cache(config)
    with pytest.raises(UnsupportedModelError, match=r"cache of .*Use FirstBlockCacheConfig"):
        latents_of(FLUX, pipe)
    remove_(pipe)
    with pytest.raises(UnsupportedModelError, match="cache of"):
        apply_(pipe, bank, mixed(bank))


def test_a_cache_put_on_a_unet_by_hand_is_refused() -> None:
    pipe, bank = fresh(SDXL), obs_bank(SDXL)
    apply_pyramid_attention_broadcast(pipe.unet, OTHERS[0])
    with pytest.raises(UnsupportedModelError, match="PyramidAttentionBroadcastHook"):
        apply_(pipe, bank, mixed(bank))


def test_a_cache_put_on_a_routed_model_by_hand_is_refused() -> None:
    """Such a cache hooks submodules only, and nothing on the denoiser itself tells of it."""
    for own in (SDXL, DIT):
        pipe, bank = fresh(own), obs_bank(own)
        with routed(pipe, bank, mixed(bank)):
            apply_pyramid_attention_broadcast(denoiser_of(pipe), OTHERS[0])
            with pytest.raises(UnsupportedModelError, match="PyramidAttentionBroadcastHook"):
                latents_of(own, pipe)


def test_first_block_cache_on_dropped_blocks_is_refused() -> None:
    pipe = fresh(FLUX)
    source = SamplingSource(requests_of(pipe), settings_of(FLUX), batch_size=1)
    stats = calibrate(pipe, source, CalibrationConfig(plan_of(pipe), collect=("similarity",)))
    bank = build_bank(pipe, stats, plan_of(pipe), BankConfig("layerdrop", LEVELS))
    schedule = bank.uniform_allocation().resolve((2, 2, 2))
    pipe.transformer.enable_cache(ALWAYS)
    with pytest.raises(UnsupportedModelError, match="drops blocks"):
        apply_(pipe, bank, schedule)


def test_measurements_need_the_model_without_a_cache() -> None:
    """Statistics would miss the calls that are left out, and replay what the cache remembers."""
    pipe, bank = fresh(FLUX), obs_bank(FLUX)
    source = SamplingSource(requests_of(pipe), settings_of(FLUX), batch_size=1)
    pipe.transformer.enable_cache(ALWAYS)
    with pytest.raises(UnsupportedModelError, match=r"Calibration needs .* in full, but FBCHeadBlock"):
        calibrate(pipe, source, CalibrationConfig(bank.plan))
    with pytest.raises(UnsupportedModelError, match="layer errors needs"):
        measure_sensitivity(pipe, bank, source)
    with pytest.raises(UnsupportedModelError, match="The fitness needs"):
        TrajectoryFitness(pipe, bank, requests_of(pipe), bank.uniform_allocation(), sampler=settings_of(FLUX))


def test_without_a_context_the_cache_itself_says_so() -> None:
    """Models that pipelines do not give a context to cannot have First Block Cache, routed or not."""
    (sd3,) = (own for own in PIPELINES if own.name == "sd3")
    pipe, bank = fresh(sd3), obs_bank(sd3)
    apply_first_block_cache(pipe.transformer, ALWAYS)
    with routed(pipe, bank, mixed(bank)), pytest.raises(ValueError, match="No cache context"):
        latents_of(sd3, pipe)
