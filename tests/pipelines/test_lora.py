"""LoRA weights by peft: refused while they are wrapped around the linears, pruned like any others once fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

from diff_es.bank import Bank
from diff_es.calibration import CalibrationConfig, SamplingSource, calibrate
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.pruning import BankConfig, build_bank
from diff_es.routing import apply_, routed
from pipelines.prepared import LEVELS, fresh, latents_of, mixed, obs_bank, plan_of, requests_of, settings_of
from pipelines.registry import PIPELINES, TinyPipeline

RANK, ALPHA = 2, 6
TARGETS = ("to_q", "to_out.0")
every_family = pytest.mark.parametrize(
    "own", [own for own in PIPELINES if own.name in ("sdxl", "flux", "sd3")], ids=lambda own: own.name
)


def with_lora(own: TinyPipeline) -> Any:
    """The pipeline with random LoRA weights on the query and the output projection of every attention."""
    pipe = fresh(own)
    wrap_(denoiser_of(pipe))
    return pipe


def wrap_(denoiser: Any) -> None:
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), init_lora_weights=False))


def added_by_hand(own: TinyPipeline, wrapped: nn.Module) -> Any:
    """The plain pipeline, each weight W made W + α/r · B A of the LoRA layers."""
    pipe = fresh(own)
    for name, module in wrapped.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            denoiser_of(pipe).get_submodule(name).weight += ALPHA / RANK * (b @ a)
    return pipe


def bank_of(own: TinyPipeline, pipe: Any) -> Bank:
    plan = plan_of(pipe)
    source = SamplingSource(requests_of(pipe), settings_of(own), batch_size=1)
    stats = calibrate(pipe, source, CalibrationConfig(plan, collect=("second_moment",)))
    return build_bank(pipe, stats, plan, BankConfig("obs", LEVELS))


@every_family
def test_wrapped_linears_are_refused_fused_or_not(own: TinyPipeline) -> None:
    pipe = with_lora(own)
    with pytest.raises(UnsupportedModelError, match=r"peft\..*fuse LoRA"):
        bank_of(own, pipe)
    pipe.fuse_lora()
    with pytest.raises(UnsupportedModelError, match=r"peft\..*fuse LoRA"):
        bank_of(own, pipe)


@every_family
def test_fused_and_unloaded_it_is_a_model_like_any_other(own: TinyPipeline) -> None:
    pipe = with_lora(own)
    by_hand = added_by_hand(own, denoiser_of(pipe))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert latents_of(own, pipe).allclose(latents_of(own, by_hand), atol=1e-4)
    assert not latents_of(own, pipe).allclose(latents_of(own, fresh(own)), atol=1e-2)
    bank, other = bank_of(own, pipe), bank_of(own, by_hand)
    with routed(pipe, bank, mixed(bank)):
        found = latents_of(own, pipe)
    with routed(by_hand, other, mixed(other)):
        expected = latents_of(own, by_hand)
    assert found.allclose(expected, atol=1e-3)
    with pytest.raises(InputError, match="belong to another model"):
        apply_(fresh(own), bank, mixed(bank))


@every_family
def test_loaded_into_a_routed_model_it_is_refused_and_can_be_taken_back(own: TinyPipeline) -> None:
    pipe, bank = fresh(own), obs_bank(own)
    with routed(pipe, bank, mixed(bank)):
        expected = latents_of(own, pipe)
        wrap_(denoiser_of(pipe))
        with pytest.raises(UnsupportedModelError, match="loaded into a routed denoiser"):
            latents_of(own, pipe)
        pipe.unload_lora_weights()
        assert torch.equal(latents_of(own, pipe), expected)
