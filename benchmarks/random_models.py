"""Denoisers of published sizes with random weights, and random pruning: latency and memory depend on neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from diff_es.bank import ThinLayer
from diff_es.denoisers import Call, Fingerprint, Layer, fingerprint, spec_of
from diff_es.schedule import Allocation, groups_removed
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan
from dit_xl_macs import dit_xl
from random_pipelines import dit_pipeline, flux_pipeline, sdxl_pipeline
from real_sizes import flux, sdxl


@dataclass(frozen=True)
class RandomModel:
    """A size, in a pipeline.

    Attributes:
        name: For people.
        denoiser: Makes the denoiser, in torch's default dtype and device.
        pipeline: Puts it into a pipeline, which can be called.
        call: (rows, timestep as the pipeline passes it, device, dtype) → a denoiser call.
        levels: H.
        stages: Stages of the denoising run.
        steps: Its steps.
        guided: Whether an image has a conditional and an unconditional row.
    """

    name: str
    denoiser: Callable[[], nn.Module]
    pipeline: Callable[[nn.Module], Any]
    call: Callable[[int, Tensor, torch.device, torch.dtype], Call]
    levels: int
    stages: int = 10
    steps: int = 20
    guided: bool = True

    def build(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the pipeline with random weights, made on the device."""
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                denoiser = self.denoiser().eval()
            # Schedulers want their own tensors in host memory.
            pipe = self.pipeline(denoiser)
        finally:
            torch.set_default_dtype(before)
        return pipe.to(device)

    def plan(self, pipe: Any) -> StagePlan:
        """Return the stages of the pipeline's own steps."""
        return stage_plan(pipe, self.stages, self.steps)

    def calls(self, plan: StagePlan, images: int, device: torch.device, dtype: torch.dtype) -> list[Call]:
        """Return the denoiser calls of one denoising run; timesteps are views, as they are in diffusers' pipelines."""
        timesteps = torch.tensor(plan.timesteps, device=device)
        rows = images * (2 if self.guided else 1)
        generator = torch.Generator(device).manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            return [self.call(rows, timestep, device, dtype) for timestep in timesteps]


def dit_s() -> DiTTransformer2DModel:
    """DiT-S/2 for 256 × 256 images: 12 blocks of 6 heads of 64, 256 tokens."""
    return DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=12,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
        attention_bias=True,
    )


def dit_call(rows: int, timestep: Tensor, device: torch.device, dtype: torch.dtype) -> Call:
    """Latents of 32 × 32."""
    return {
        "hidden_states": torch.randn(rows, 4, 32, 32).to(device, dtype),
        "timestep": timestep.expand(rows),
        "class_labels": torch.randint(0, 1000, (rows,)).to(device),
    }


def sdxl_call(rows: int, timestep: Tensor, device: torch.device, dtype: torch.dtype) -> Call:
    """Images of 1024 × 1024."""
    added = {"text_embeds": torch.randn(rows, 1280), "time_ids": torch.full((rows, 6), 1024.0)}
    return {
        "sample": torch.randn(rows, 4, 128, 128).to(device, dtype),
        "timestep": timestep,
        "encoder_hidden_states": torch.randn(rows, 77, 2048).to(device, dtype),
        "added_cond_kwargs": {name: tensor.to(device, dtype) for name, tensor in added.items()},
    }


def flux_call(rows: int, timestep: Tensor, device: torch.device, dtype: torch.dtype) -> Call:
    """Images of 1024 × 1024, 256 text tokens; the pipeline divides timesteps by 1,000."""
    return {
        "hidden_states": torch.randn(rows, 4096, 64).to(device, dtype),
        "encoder_hidden_states": torch.randn(rows, 256, 4096).to(device, dtype),
        "pooled_projections": torch.randn(rows, 768).to(device, dtype),
        "timestep": timestep.expand(rows).to(dtype) / 1000,
        "img_ids": torch.zeros(4096, 3, device=device, dtype=dtype),
        "txt_ids": torch.zeros(256, 3, device=device, dtype=dtype),
    }


MODELS = {
    "dit-s": RandomModel("DiT-S/2, 256 × 256", dit_s, dit_pipeline, dit_call, levels=6),
    "dit-xl": RandomModel("DiT-XL/2, 256 × 256", dit_xl, dit_pipeline, dit_call, levels=16),
    "sdxl": RandomModel("SDXL, 1024 × 1024", sdxl, sdxl_pipeline, sdxl_call, levels=10),
    "flux": RandomModel(
        "FLUX.1-schnell, 1024 × 1024", flux, flux_pipeline, flux_call, levels=24, stages=4, steps=4, guided=False
    ),
}


@dataclass(frozen=True)
class RandomPruning:
    """A source of thin layers in which random groups go first, the same in every run; nothing is compensated.

    Attributes:
        denoiser: The dense model.
        plan: The stages.
        num_levels: H.
        depth: Whether whole blocks go; else heads and channels.
    """

    denoiser: nn.Module
    plan: StagePlan
    num_levels: int
    depth: bool = False
    fingerprint: Fingerprint = field(init=False)
    layers: tuple[str, ...] = field(init=False)
    _kept: dict[tuple[int, str, int], Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        layers = spec_of(self.denoiser).layers(self.denoiser, blocks=self.depth)
        object.__setattr__(self, "fingerprint", fingerprint(self.denoiser))
        object.__setattr__(self, "layers", tuple(layer.name for layer in layers))

    def uniform_allocation(self) -> Allocation:
        if not self.depth:
            return Allocation.uniform(self.layers, self.plan.num_stages, self.num_levels)
        counts = groups_removed(len(self.layers), self.num_levels)
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(self.layers), generator=generator).tolist() for _ in range(self.plan.num_stages)]
        table = tuple(tuple(self._dropped(set(order[:count])) for count in counts) for order in orders)
        return Allocation("uniform", self.layers, table)

    def _dropped(self, gone: set[int]) -> tuple[int, ...]:
        return tuple(self.num_levels if block in gone else 0 for block in range(len(self.layers)))

    def kept(self, stage: int, layer: Layer, level: int) -> Tensor:
        """As many groups of each family as the level keeps, whatever the order of families is; drawn once."""
        key = (stage, layer.name, level)
        if key not in self._kept:
            self._kept[key] = self._drawn(stage, layer, level)
        return self._kept[key]

    def _drawn(self, stage: int, layer: Layer, level: int) -> Tensor:
        if self.depth:
            return torch.empty(0, dtype=torch.int64)
        generator = torch.Generator().manual_seed(1000 * stage + self.layers.index(layer.name))
        parts = []
        for first, family in zip(layer.firsts, layer.families, strict=True):
            order = torch.randperm(family.count, generator=generator)
            parts.append(first + order[family.removed(self.num_levels)[level] :])
        return torch.cat(parts).sort().values

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        return ThinLayer(self.kept(stage, layer, level))


def ramp(stages: int, num_levels: int) -> tuple[int, ...]:
    """Stage levels that rise from a quarter to three quarters of H, half of it on average."""
    share = [0.25 + 0.5 * stage / max(stages - 1, 1) for stage in range(stages)]
    levels = [round(part * num_levels) for part in share]
    levels[-1] += num_levels * stages // 2 - sum(levels)
    return tuple(levels)


def schedule_of(source: RandomPruning, name: str) -> Any:
    """Return the 50 % schedule "uniform", or "ramp" with a level of its own in every stage."""
    stages: Sequence[int] = (source.num_levels // 2,) * source.plan.num_stages
    return source.uniform_allocation().resolve(
        tuple(stages) if name == "uniform" else ramp(source.plan.num_stages, source.num_levels)
    )
