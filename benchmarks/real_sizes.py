"""What pruning the paper's large models would take, from their published shapes alone: no weights, no GPU.

Builds the denoisers of DiT-XL/2, SDXL and FLUX.1 on the meta device and says what is prunable, how many schedules there
are, which multiply-adds are left at each level, how large calibration and bank are on disk, and which memory the
Hessians of OBS need.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import nn

from diff_es.denoisers import Call, Layer, count_macs, spec_of
from diff_es.denoisers.macs import flop_counter
from diff_es.run.footprint import footprint
from diff_es.run.inspect import inspect_denoiser
from diff_es.schedule import groups_removed
from dit_xl_macs import call as dit_call
from dit_xl_macs import dit_xl
from results import add_output_option, finish

#: SDXL has three blocks of up to three layers; a branch is a block and a layer.
_BRANCHES = 9


@dataclass(frozen=True)
class Size:
    """One model at its published size, and the paper's settings for it."""

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[], Call]
    levels: int
    stages: int
    dtype: torch.dtype
    shared: bool


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def sdxl() -> nn.Module:
    """Stable Diffusion XL base 1.0."""
    model: nn.Module = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return model


def sdxl_call() -> Call:
    """One image of 1024 × 1024 with 77 text tokens."""
    return {
        "sample": empty(1, 4, 128, 128),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, 77, 2048),
        "added_cond_kwargs": {"text_embeds": empty(1, 1280), "time_ids": empty(1, 6)},
    }


def flux() -> nn.Module:
    """FLUX.1-schnell."""
    model: nn.Module = FluxTransformer2DModel(
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=False,
    )
    return model


def flux_call() -> Call:
    """One image of 1024 × 1024 with 256 text tokens."""
    return {
        "hidden_states": empty(1, 4096, 64),
        "encoder_hidden_states": empty(1, 256, 4096),
        "pooled_projections": empty(1, 768),
        "timestep": empty(1),
        "img_ids": empty(4096, 3),
        "txt_ids": empty(256, 3),
    }


SIZES = (
    Size("DiT-XL/2, 256 × 256", dit_xl, lambda: dit_call(rows=1), 16, 10, torch.float16, False),
    Size("SDXL base 1.0, 1024 × 1024", sdxl, sdxl_call, 10, 10, torch.float16, True),
    Size("FLUX.1-schnell, 1024 × 1024", flux, flux_call, 24, 4, torch.bfloat16, False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_option(parser)
    arguments = parser.parse_args()
    numbers = {"benchmark": "real_sizes", "models": [measure(size) for size in SIZES]}
    finish(numbers | {"sdxl_with_deep_cache": deep_cache(SIZES[1])}, arguments.json)


def measure(size: Size) -> dict[str, Any]:
    with torch.device("meta"):
        model = size.build().eval()
    inspection = inspect_denoiser(model, size.call())
    layers = spec_of(model).width_layers(model)
    macs = {level: count_macs(sliced(size.build, layers, level, size.levels), size.call()) for level in _levels(size)}
    stored = footprint(
        model.to(size.dtype), layers, method="obs", num_levels=size.levels, stages=size.stages, shared=size.shared
    )
    return {
        "name": size.name,
        "parts": [asdict(part) for part in inspection.parts],
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "prunable_share_of_macs": sum(part.macs for part in inspection.parts if not part.reason) / inspection.macs,
        "levels": size.levels,
        "stages": size.stages,
        "shared_calibration": size.shared,
        "dtype": str(size.dtype).removeprefix("torch."),
        "schedules_at_half": schedules(size.stages, size.levels),
        "macs_left_by_level": {str(level): left / inspection.macs for level, left in macs.items()},
        "footprint": asdict(stored),
    }


def deep_cache(size: Size) -> list[dict[str, int]]:
    """MACs of SDXL's calls under DeepCache, dense and at 30 %, for each branch that its helper knows."""
    level = round(0.3 * size.levels)
    with torch.device("meta"):
        dense = size.build().eval()
    pruned = sliced(size.build, spec_of(dense).width_layers(dense), level, size.levels)
    rows = []
    for branch in range(_BRANCHES):
        row = {"branch": branch}
        for name, model in (("dense", dense), ("pruned", pruned)):
            row[f"{name}_full"], row[f"{name}_cached"] = _two_calls(model, size.call(), branch)
        rows.append(row)
    return rows


def _two_calls(model: nn.Module, call: Call, branch: int) -> tuple[int, int]:
    """MACs of the two steps of an interval of two: one in full, one from the cache."""
    from DeepCache import DeepCacheSDHelper  # noqa: PLC0415 (an extra; most benchmarks import the sizes alone)

    timesteps = torch.tensor([951.0, 901.0])
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=model, scheduler=SimpleNamespace(timesteps=timesteps)))
    helper.set_params(cache_interval=2, cache_branch_id=branch)
    helper.enable()
    named = {name: value for name, value in call.items() if name not in ("sample", "timestep")}
    counts = []
    for timestep in timesteps:
        with torch.no_grad(), flop_counter() as counter:
            model(call["sample"], timestep, **named)
        counts.append(counter.get_total_flops() // 2)
    helper.disable()
    return counts[0], counts[1]


def _levels(size: Size) -> tuple[int, ...]:
    """About a quarter, 30 % (the paper's SDXL), a half and three quarters of the groups gone, and all of them."""
    return tuple(sorted({round(share * size.levels) for share in (0.25, 0.3, 0.5, 0.75, 1)}))


def schedules(stages: int, levels: int) -> int:
    """Number of compositions of half of all levels into that many stages, none above H (by inclusion and exclusion)."""
    total = stages * levels // 2
    return sum(
        (-1) ** full * math.comb(stages, full) * math.comb(total - full * (levels + 1) + stages - 1, stages - 1)
        for full in range(total // (levels + 1) + 1)
    )


def sliced(build: Callable[[], nn.Module], layers: tuple[Layer, ...], level: int, levels: int) -> nn.Module:
    """Build the model with what a level leaves of every layer."""
    with torch.device("meta"):
        model = build().eval()
    for layer in layers:
        for path, dimension in [*((p, 0) for p in layer.inputs), *((p, 1) for p in layer.outputs)]:
            for name, parameter in list(model.get_submodule(path).named_parameters(recurse=False)):
                if dimension < parameter.ndim and (dimension == 0 or name == "weight"):
                    shape = list(parameter.shape)
                    shape[dimension] -= _gone(layer, path, dimension, level, levels)
                    model.get_submodule(path)._parameters[name] = nn.Parameter(empty(*shape))
        for family in layer.families:
            kept = family.count - groups_removed(family.count, levels)[level]
            for item in family.attributes:
                setattr(model.get_submodule(item.module), item.name, item.value(kept))
            if kept == 0 and family.absent is not None:
                module = model.get_submodule(family.absent.module)
                module.forward = family.absent.forward.__get__(module)
    return model


def _gone(layer: Layer, path: str, dimension: int, level: int, levels: int) -> int:
    return sum(
        span.size * groups_removed(family.count, levels)[level]
        for family in layer.families
        for span in (family.columns if dimension else family.rows)
        if span.path == path
    )


if __name__ == "__main__":
    main()
