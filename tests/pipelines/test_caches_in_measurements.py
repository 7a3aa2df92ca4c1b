"""Caches that a recipe puts on the measured models: what is sampled, what is counted, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from DeepCache import DeepCacheSDHelper

from diff_es.artifacts import read_record, write_record
from diff_es.calibration import record_calls
from diff_es.denoisers import Call, denoiser_of, own_macs
from diff_es.errors import InputError
from diff_es.evaluation.caches import Cache, DeepCache, FirstBlockCache, cache_for
from diff_es.evaluation.cost import count_run
from diff_es.routing import routed
from diff_es.run.image_settings import ImageSettings, image_settings
from diff_es.run.measure import Bench, Contestant
from diff_es.sampling import any_requests, sample
from pipelines.prepared import fresh, mixed, obs_bank, pipe_with, plan_of, requests_of, settings_of
from pipelines.registry import PIPELINES, STEPS

SDXL, FLUX, DIT = (next(own for own in PIPELINES if own.name == name) for name in ("sdxl", "flux", "dit"))


def test_images_are_those_of_the_routed_model_under_the_cache(tmp_path: Path) -> None:
    bank, pipe = obs_bank(SDXL), fresh(SDXL)
    requests = requests_of(pipe)
    bench = Bench(pipe, settings_of(SDXL), None)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    with routed(pipe, bank, mixed(bank)):
        helper.enable()
        expected = sample(pipe, requests, settings_of(SDXL))
        helper.disable()
    entries = {cache: Contestant("pruned", "", mixed(bank), bank, cache) for cache in (DeepCache(2), None)}
    cached, plain = (
        Bench(pipe, settings_of(SDXL), None).sample(entry, requests, tmp_path / str(entry.cache), len(requests))
        for entry in entries.values()
    )
    pixels = (expected * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(cached.tensor("images"), pixels)
    assert not torch.equal(plain.tensor("latents"), cached.tensor("latents"))
    with pytest.raises(InputError, match="other settings"):
        bench.sample(entries[None], requests, tmp_path / str(DeepCache(2)), len(requests))


def test_deep_cache_costs_what_its_outermost_branch_computes() -> None:
    """Every second step: the way in, the last layer of the way up, and the way out."""
    pipe = fresh(SDXL)
    calls = [call for _, call in record_calls(pipe, any_requests(pipe, 1), settings_of(SDXL))]
    full = [own_macs(pipe.unet, call) for call in calls]
    last_up = f"up_blocks.{len(pipe.unet.up_blocks) - 1}"
    ends = tuple(f"{last_up}.{kind}.{len(pipe.unet.up_blocks[-1].resnets) - 1}" for kind in ("resnets", "attentions"))
    deep = ("down_blocks", "mid_block", "up_blocks")
    expected = 0
    for step, macs in enumerate(full):
        kept = [name for name in macs if not name.startswith(deep) or name.startswith(ends)]
        expected += sum(macs.values()) if step % 2 == 0 else sum(macs[name] for name in kept)
    with DeepCache(2).enabled(pipe):
        found = count_run(pipe, plan_of(pipe), settings_of(SDXL)).macs
    assert found == expected < sum(sum(macs.values()) for macs in full)
    assert len(full) == STEPS


def test_first_block_cache_costs_what_it_computes() -> None:
    """Nothing exceeds the threshold: the first call in full, the others as far as the first block."""
    pipe = fresh(FLUX)
    calls: list[Call] = [call for _, call in record_calls(pipe, any_requests(pipe, 1), settings_of(FLUX))]
    blocks = ("transformer_blocks", "single_transformer_blocks")
    expected = 0
    for step, call in enumerate(calls):
        macs = own_macs(pipe.transformer, call)
        left_out = [name for name in macs if name.startswith(blocks) and not name.startswith("transformer_blocks.0.")]
        expected += sum(macs.values()) - (sum(macs[name] for name in left_out) if step else 0)
    before = count_run(pipe, plan_of(pipe), settings_of(FLUX)).macs
    with FirstBlockCache(1e9).enabled(pipe):
        found = count_run(pipe, plan_of(pipe), settings_of(FLUX)).macs
    assert found == expected < before
    assert count_run(pipe, plan_of(pipe), settings_of(FLUX)).macs == before, "the cache is gone again"


@pytest.mark.parametrize("cache", [DeepCache(3), FirstBlockCache(0.1), None])
def test_settings_of_images_survive_the_disk_with_their_cache(cache: Cache | None, tmp_path: Path) -> None:
    pipe = fresh(DIT)
    own = image_settings(pipe, settings_of(DIT), requests_of(pipe), cache=cache)
    write_record(tmp_path / "settings.json", own)
    assert read_record(tmp_path / "settings.json", ImageSettings) == own


def test_what_a_recipe_may_ask_for() -> None:
    assert cache_for(1, 0.0) is None
    assert cache_for(3, 0.0) == DeepCache(3)
    assert cache_for(1, 0.2) == FirstBlockCache(0.2)
    with pytest.raises(InputError, match="remove one of the two"):
        cache_for(2, 0.2)
    with pytest.raises(InputError, match="interval=1: need ≥ 2"):
        DeepCache(1)
    with pytest.raises(InputError, match=r"threshold=0.0: need > 0"):
        FirstBlockCache(0.0)


def test_a_cache_that_the_model_cannot_have_is_refused() -> None:
    DeepCache(2).check(fresh(SDXL))
    FirstBlockCache(0.1).check(fresh(FLUX))
    with pytest.raises(InputError, match="DeepCache, interval 2 is for U-Nets, and FluxPipeline has none"):
        DeepCache(2).check(fresh(FLUX))
    for own in (SDXL, DIT):
        pipe = pipe_with(own, own.samplers[0])
        with pytest.raises(InputError, match=f"no cache for {type(denoiser_of(pipe)).__name__}"):
            FirstBlockCache(0.1).check(pipe)


def test_deep_cache_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "DeepCache", None)
    with pytest.raises(InputError, match=r"pip install 'diff-es\[deepcache\]'"):
        DeepCache(2).check(fresh(SDXL))
