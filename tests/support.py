"""What many tests share: a real DiT pipeline, tiny and untrained, with banks made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from diff_es.bank import Bank
from diff_es.calibration import CalibrationConfig, CalibrationStats, DatasetSource, calibrate
from diff_es.denoisers import Layer
from diff_es.pruning.build import build_bank
from diff_es.pruning.pruners import BankConfig, pruners
from diff_es.sampling import Requests, SamplerConfig
from diff_es.stages import StagePlan

HEADS = 4
LAYERS = 2
CLASSES = 10
SAMPLER = SamplerConfig(num_inference_steps=6)
PLAN = StagePlan.split((830.0, 664.0, 498.0, 332.0, 166.0, 0.0), 3)
REQUESTS = Requests.cycle(range(CLASSES), 2, 100)

#: Every way to make a bank: pruner, and whether the bias takes part.
METHODS = ("obs", "obs+intercept", "wanda", "magnitude", "layerdrop")


def tiny_pipe(activation: str = "gelu-approximate", seed: int = 0) -> DiTPipeline:
    """Two blocks of four heads on 16 tokens; images of 16 × 16; the AdaLN gates are not zero, so every layer counts."""
    torch.manual_seed(seed)
    denoiser = DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=4,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        sample_size=4,
        patch_size=1,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        activation_fn=activation,
    ).eval()
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = AutoencoderKL(
        sample_size=16, block_out_channels=(4, 4, 4), layers_per_block=1, latent_channels=4, norm_num_groups=1, **blocks
    ).eval()
    names = {label: f"class {label}" for label in range(CLASSES)}
    pipe = DiTPipeline(transformer=denoiser, vae=vae, scheduler=DDIMScheduler(), id2label=names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_source(count: int = 12, *, guided: bool = True, **settings: Any) -> DatasetSource:
    """Random clean latents with labels."""
    latents = torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(7))
    sampler = SAMPLER if guided else SamplerConfig(SAMPLER.num_inference_steps, guidance_scale=1.0)
    return DatasetSource(latents, Requests.cycle(range(CLASSES), count, 0), sampler, **{"batch_size": 8, **settings})


def tiny_stats(pipe: Any, plan: StagePlan = PLAN, *, shared: bool = False) -> CalibrationStats:
    """All statistics, in memory."""
    return calibrate(pipe, tiny_source(), CalibrationConfig(plan, shared=shared))


def tiny_bank(
    pipe: Any,
    method: str,
    num_levels: int = HEADS,
    *,
    stats: CalibrationStats | None = None,
    folder: Path | None = None,
) -> Bank:
    """A bank of one of `METHODS`; with H = 4 every level removes one head and a quarter of the channels."""
    name, _, intercept = method.partition("+")
    config = BankConfig(name, num_levels, intercept=bool(intercept))
    return build_bank(pipe, stats or tiny_stats(pipe), PLAN, config, folder)


def output_of(layer: Layer) -> str:
    """Path of a layer's only output projection."""
    (path,) = layer.outputs
    return path


def columns_of(layer: Layer, kept: Tensor) -> Tensor:
    """Columns of the output projection that groups own, in a layer of one family."""
    (family,) = layer.families
    size = family.columns[0].size
    return torch.arange(family.count * size).view(family.count, -1)[kept].flatten()


def mixed_levels(bank: Bank) -> tuple[int, ...]:
    """Stage levels that differ from stage to stage and are not dense anywhere."""
    return (bank.num_levels, 1 + (bank.num_levels > 1), bank.num_levels - 1 or 1)


def is_depth(method: str) -> bool:
    """Whether the method drops whole blocks."""
    return pruners[method.partition("+")[0]].depth


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything of a module tree that a router may change: the parameter objects and the plain attributes."""
    state: dict[str, Any] = {}
    for path, child in module.named_modules():
        state |= {f"{path}.{name}": parameter for name, parameter in child._parameters.items()}
        plain = {name: value for name, value in vars(child).items() if isinstance(value, int | str | float)}
        state |= {f"{path}.{name}": value for name, value in plain.items()}
        state[f"{path}.own attributes"] = sorted(vars(child))
        state[f"{path}.hooks"] = [len(hooks) for name, hooks in sorted(vars(child).items()) if name.endswith("_hooks")]
    return state


def same_state(module: nn.Module, before: dict[str, Any]) -> bool:
    """Whether a module tree is as it was in `snapshot`: the very same tensors, equal attributes."""
    now = snapshot(module)
    return now.keys() == before.keys() and all(
        value is before[name] if isinstance(value, nn.Parameter) else value == before[name]
        for name, value in now.items()
    )


def call_at(timestep: int, rows: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Keyword arguments of one denoiser call."""
    latents = torch.randn(rows, 4, 4, 4, generator=torch.Generator().manual_seed(timestep + 1), dtype=dtype)
    labels = torch.arange(rows) % CLASSES
    return {"hidden_states": latents, "timestep": torch.full((rows,), timestep), "class_labels": labels}


def timestep_in(stage: int) -> int:
    """A sampler step of a stage of `PLAN`."""
    return int(PLAN.timesteps[PLAN.stage_of_step.index(stage)])
