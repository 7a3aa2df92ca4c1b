"""States of a supported model that are refused by name, and what still works beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0, SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import nn

from diff_es.denoisers import dense_denoiser_of
from diff_es.errors import UnsupportedModelError
from diff_es.routing import apply_, remove_, routed
from families.contract import contract, every_family
from families.family import Family, output, pipeline_of
from families.prepared import STAGES, bank_of, call_in, denoiser_in, layers_of, level, mixed
from families.registry import FAMILIES

CPU = torch.device("cpu")
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@contract
def test_fused_projections_are_refused(family: Family) -> None:
    """Where diffusers can fuse; unfusing is a way out only where it clears the fused weights away."""
    model = family.model()
    pipe = pipeline_of(model)
    if hasattr(model, "fuse_qkv_projections"):
        model.fuse_qkv_projections()
    if not any(getattr(module, "fused_projections", False) for module in model.modules()):
        return
    with pytest.raises(UnsupportedModelError, match=r"has fused q, k, v: call unfuse_qkv_projections\(\)"):
        dense_denoiser_of(pipe)
    model.unfuse_qkv_projections()
    if any(name.endswith(("to_qkv.weight", "to_kv.weight")) for name, _ in model.named_parameters()):
        with pytest.raises(UnsupportedModelError, match="load the pipeline again"):
            dense_denoiser_of(pipe)
    else:
        assert dense_denoiser_of(pipe) is model


IP_ADAPTERS = {
    "Stable Diffusion XL": lambda: IPAdapterAttnProcessor2_0(hidden_size=32, cross_attention_dim=32),
    "Stable Diffusion 3": lambda: SD3IPAdapterJointAttnProcessor2_0(32, 32, 8),
    "FLUX.1": lambda: FluxIPAdapterAttnProcessor(hidden_size=32, cross_attention_dim=32),
}


@pytest.mark.parametrize("name", IP_ADAPTERS)
def test_ip_adapters_are_refused(name: str) -> None:
    pipe = BY_NAME[name].pipe()
    layer = [layer for layer in layers_of(denoiser_in(pipe)) if layer.kind == "attention"][1 if "XL" in name else 0]
    attention: Any = denoiser_in(pipe).get_submodule(layer.name)
    plain = attention.processor
    attention.set_processor(IP_ADAPTERS[name]())
    with pytest.raises(UnsupportedModelError, match=rf"{layer.name} has an IP-Adapter .*unload_ip_adapter"):
        dense_denoiser_of(pipe)
    attention.set_processor(plain)
    assert dense_denoiser_of(pipe) is denoiser_in(pipe)


def test_two_denoisers_are_refused_until_the_first_makes_all_steps() -> None:
    first, second = BY_NAME["Wan (text to video)"].model(), BY_NAME["Wan (text to video)"].model()
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = WanPipeline(**parts, scheduler=scheduler, transformer=first, transformer_2=second, boundary_ratio=0.9)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(UnsupportedModelError, match="second denoiser, transformer_2"):
        dense_denoiser_of(pipe)
    pipe.transformer_2 = None
    pipe.register_to_config(boundary_ratio=None)
    assert dense_denoiser_of(pipe) is first
    bank = bank_of(BY_NAME["Wan (text to video)"], "magnitude")
    with routed(pipe, bank, level(bank, 1, 2, 3)):
        size = {"num_frames": 1, "height": 32, "width": 32}
        run = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}
        latents = pipe(prompt_embeds=torch.zeros(1, 4, 16), **size, **run).frames
    assert bool(latents.isfinite().all())


class LoraLinear(nn.Module):
    """A linear with a low-rank update beside it, as adapter libraries wrap it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(base.in_features, 1), nn.Linear(1, base.out_features)


class PackedTensor(torch.Tensor):
    """Quantisation libraries keep nn.Linear and put a tensor of their own into it."""


@contract
def test_wrapped_and_quantised_layers_are_refused_wherever_they_are(family: Family) -> None:
    """Every linear of one attention and of one FFN, each alone."""
    model = family.model()
    pipe = pipeline_of(model)
    layers = {layer.kind: layer for layer in layers_of(model)}.values()
    for path in (path for layer in layers for path in (*layer.inputs, *layer.outputs)):
        parent, _, name = path.rpartition(".")
        module: Any = model.get_submodule(path)
        weight = module.weight
        if isinstance(module, nn.Linear):
            setattr(model.get_submodule(parent), name, LoraLinear(module))
            with pytest.raises(UnsupportedModelError, match=rf"{path} is a .*LoraLinear.*fuse LoRA"):
                dense_denoiser_of(pipe)
            setattr(model.get_submodule(parent), name, module)
        module.weight = nn.Parameter(weight.detach().as_subclass(PackedTensor), requires_grad=False)
        with pytest.raises(UnsupportedModelError, match=rf"{path} is a PackedTensor: prune, then quantise"):
            dense_denoiser_of(pipe)
        module.weight = weight
    assert dense_denoiser_of(pipe) is model


@every_family
def test_sequential_offload_is_refused(family: Family) -> None:
    model = family.model()
    accelerate.cpu_offload(model, execution_device=CPU)
    with pytest.raises(UnsupportedModelError, match=r"no weights in memory.*enable_model_cpu_offload"):
        dense_denoiser_of(pipeline_of(model))


def test_group_offload_to_disk_is_refused(tmp_path: Path) -> None:
    model = BY_NAME["FLUX.1"].model()
    apply_group_offloading(
        model, CPU, offload_type="block_level", num_blocks_per_group=1, offload_to_disk_path=tmp_path
    )
    with pytest.raises(UnsupportedModelError, match=r"in groups with offload_to_disk_path.*without it"):
        dense_denoiser_of(pipeline_of(model))


def test_group_offload_by_a_stream_is_refused() -> None:
    """diffusers makes a stream on an accelerator only: the configuration is given one that there is everywhere."""
    model = BY_NAME["FLUX.1"].model()
    apply_group_offloading(model, CPU, offload_type="block_level", num_blocks_per_group=1)
    assert dense_denoiser_of(pipeline_of(model)) is model
    model._diffusers_hook.get_hook("group_offloading").config.stream = torch.Stream(device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"in groups with use_stream=True.*enable_model_cpu_offload"):
        dense_denoiser_of(pipeline_of(model))


@contract
def test_plain_group_offload_works_in_both_orders(family: Family) -> None:
    _offload(family, "block_level", offload_first=True)
    _offload(family, "leaf_level", offload_first=False)


def _offload(family: Family, kind: str, *, offload_first: bool) -> None:
    pipe, bank = family.pipe(), bank_of(family, "obs+intercept")
    model = denoiser_in(pipe)
    apply_(pipe, bank, mixed(bank))
    expected = [output(model, call_in(family, stage)) for stage in STAGES]
    if offload_first:
        remove_(pipe)
    apply_group_offloading(model, CPU, offload_type=kind, num_blocks_per_group=1 if kind == "block_level" else None)
    if offload_first:
        apply_(pipe, bank, mixed(bank))
    for stage in (*STAGES, 0):
        assert torch.equal(output(model, call_in(family, stage)), expected[stage])
