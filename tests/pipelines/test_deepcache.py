"""DeepCache on routed U-Nets: what the deep blocks gave at the last full step is taken again at the next ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from diff_es.calibration import CalibrationConfig, SamplingSource, calibrate
from diff_es.denoisers import spec_of
from diff_es.errors import UnsupportedModelError
from diff_es.fitness import TrajectoryFitness
from diff_es.routing import routed
from diff_es.timesteps import stage_plan
from families.oracles import pruned_model
from pipelines.prepared import fresh, latents_of, mixed, obs_bank, requests_of, settings_of
from pipelines.registry import PIPELINES, STAGES, STEPS, TinyPipeline

DeepCache = pytest.importorskip("DeepCache", reason="DeepCache is not installed: pip install 'diff-es[deepcache]'")

UNETS = [own for own in PIPELINES if own.name in ("sd15", "sdxl")]
every_unet = pytest.mark.parametrize("own", UNETS, ids=lambda own: own.name)


@contextmanager
def deep_cache(pipe: Any, interval: int) -> Iterator[None]:
    helper = DeepCache.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


def middle_calls(own: TinyPipeline, pipe: Any) -> int:
    """How many of the middle block's calls one run computes."""
    calls: list[int] = []
    handle = pipe.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    latents_of(own, pipe)
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("cache_first", [True, False], ids=["cache first", "routing first"])
@every_unet
def test_both_orders_give_the_same(own: TinyPipeline, cache_first: bool) -> None:
    pipe, bank = fresh(own), obs_bank(own)
    with routed(pipe, bank, mixed(bank)):
        without = latents_of(own, pipe)
        with deep_cache(pipe, 1):
            assert torch.equal(latents_of(own, pipe), without), "an interval of 1 caches nothing"
        with deep_cache(pipe, 2):
            expected = latents_of(own, pipe)
    if cache_first:
        with deep_cache(pipe, 2), routed(pipe, bank, mixed(bank)):
            assert torch.equal(latents_of(own, pipe), expected)
            assert torch.equal(latents_of(own, pipe), expected), "the second run of the pipeline"
            assert middle_calls(own, pipe) == STEPS // 2
    assert not torch.equal(expected, without)
    assert torch.equal(latents_of(own, pipe), latents_of(own, fresh(own))), "dense again"


@every_unet
def test_deep_features_come_from_the_stage_of_the_last_full_step(own: TinyPipeline) -> None:
    """Four steps in stages of 1, 1 and 2, every second step in full: a whole stage may run on another one's features.

    The same, of physically pruned models: the deep part of each call is that of the model of the last full step.
    """
    pipe, bank = fresh(own), obs_bank(own)
    schedule, spec, plan = mixed(bank), spec_of(pipe.unet), bank.plan
    with deep_cache(pipe, 2), routed(pipe, bank, schedule):
        found = latents_of(own, pipe)
    models = [pruned_model(pipe.unet, bank, stage, schedule) for stage in range(STAGES)]
    steps = iter(range(STEPS))

    def forward(*args: Any, **kwargs: Any) -> Any:
        stage = plan.stage_at(spec.timestep(pipe.unet, args, kwargs))
        full = next(steps) % 2 == 0
        return _with_deep_part(models[stage], full, cache)(*args, **kwargs)

    cache: dict[str, Any] = {}
    pipe.unet.forward = forward
    assert torch.equal(latents_of(own, pipe), found)


def _with_deep_part(model: Any, full: bool, cache: dict[str, Any]) -> Any:
    """The model, whose last up block takes what comes from below from the cache unless the step is full.

    Of branch 0 only the way in, the last layer of the way up and the way out are computed at every step.
    """
    last = model.up_blocks[-1].resnets[-1]
    plain = type(last).forward

    def resnet(hidden: Any, temb: Any = None, *rest: Any, **named: Any) -> Any:
        # The up block has joined what comes from below with the skip connection.
        skip = last.in_channels - model.up_blocks[-1].resnets[0].out_channels
        if full:
            cache["deep"] = hidden[:, :-skip]
        return plain(last, torch.cat([cache["deep"], hidden[:, -skip:]], dim=1), temb, *rest, **named)

    last.forward = resnet
    return model


def test_measurements_need_the_model_without_it() -> None:
    (own, *_) = UNETS
    pipe, bank = fresh(own), obs_bank(own)
    source = SamplingSource(requests_of(pipe), settings_of(own), batch_size=1)
    with deep_cache(pipe, 2):
        with pytest.raises(UnsupportedModelError, match="DeepCache is enabled"):
            calibrate(pipe, source, CalibrationConfig(bank.plan))
        with pytest.raises(UnsupportedModelError, match="DeepCache is enabled"):
            TrajectoryFitness(pipe, bank, requests_of(pipe), bank.uniform_allocation(), sampler=settings_of(own))


def test_stages_of_whole_intervals_never_share_features() -> None:
    """Two stages of two steps, an interval of two: each begins with a full step."""
    (own, *_) = UNETS
    pipe = fresh(own)
    plan = stage_plan(pipe, 2, STEPS)
    assert plan.steps_per_stage == (2, 2)
