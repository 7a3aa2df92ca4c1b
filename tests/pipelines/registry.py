"""All pipelines of the contract suite, with the samplers and the guidance that each is shown to work with.

The tests of this room go over exactly these, and the documents quote them (`replays`): no pytest is needed for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tiny_pipelines as tiny
from pipelines import builders
from pipelines.samplers import (
    DDIM,
    DIFFUSION,
    DPM,
    EULER_ANCESTRAL,
    FLOW_DPM,
    FLOW_DPM_DYNAMIC,
    FLOW_DPM_SDE,
    FLOW_DYNAMIC,
    FLOW_EULER,
    FLOW_EULERS,
    FLOW_HEUN,
    FLOW_SHIFTED,
    FLOW_UNIPC,
    Sampler,
)

STEPS = 4

#: Pipelines whose forward is shown to be compiled once per stage, by name.
_COMPILED = ("dit", "sdxl", "flux")
STAGES = 3


@dataclass(frozen=True, eq=False)
class TinyPipeline:
    """One of diffusers' pipelines, tiny.

    Attributes:
        name: What it is called in the tests.
        family: The denoiser's family, as the table of the documents calls it.
        build: (folder for tokenisers, scheduler or None) → the pipeline.
        samplers: What diffusers takes as its scheduler.
        guidance: How it is guided: both halves in one call, two calls at each step, by an embedding, or not at all.
        scale: The guidance scale of its tests.
    """

    name: str
    family: str
    build: Callable[..., Any]
    samplers: tuple[Sampler, ...]
    guidance: Literal["batched", "two calls", "distilled", "none"] = "batched"
    scale: float = 4.0

    @property
    def calls_per_step(self) -> int:
        """Denoiser calls at each timestep."""
        return 2 if self.guidance == "two calls" else 1


#: Pipelines that hand their scheduler sigmas of their own refuse schedulers that do not take any.
_OWN_SIGMAS = (*FLOW_EULERS, FLOW_DYNAMIC)
_SANA = (*FLOW_EULERS, FLOW_HEUN, FLOW_UNIPC, FLOW_DPM, FLOW_DPM_SDE)
_SD3 = (*FLOW_EULERS, FLOW_DYNAMIC, FLOW_HEUN, FLOW_UNIPC, FLOW_DPM, FLOW_DPM_SDE, FLOW_DPM_DYNAMIC)

PIPELINES: tuple[TinyPipeline, ...] = (
    TinyPipeline("dit", "DiT", builders.tiny_dit, DIFFUSION),
    TinyPipeline("dit, no guidance", "DiT", builders.tiny_dit, (DDIM,), "none", 1.0),
    TinyPipeline("sd15", "Stable Diffusion 1.5, 2", builders.tiny_sd15, DIFFUSION),
    TinyPipeline("sd15, eta 1", "Stable Diffusion 1.5, 2", builders.tiny_sd15_with_eta, (DDIM,)),
    TinyPipeline("sdxl", "Stable Diffusion XL", tiny.tiny_sdxl, DIFFUSION),
    TinyPipeline("sdxl, no guidance", "Stable Diffusion XL", tiny.tiny_sdxl, (EULER_ANCESTRAL,), "none", 1.0),
    TinyPipeline("pixart-alpha", "PixArt-α, PixArt-Σ", tiny.tiny_pixart, DIFFUSION),
    TinyPipeline("pixart-sigma", "PixArt-α, PixArt-Σ", builders.tiny_sigma, (DPM,)),
    TinyPipeline("hunyuan-dit", "HunyuanDiT", builders.tiny_hunyuan_dit, DIFFUSION),
    TinyPipeline("sd3", "Stable Diffusion 3", tiny.tiny_sd3, _SD3),
    TinyPipeline("sd35", "Stable Diffusion 3.5", builders.tiny_sd35, _SD3),
    TinyPipeline("flux", "FLUX.1", tiny.tiny_flux, (*_OWN_SIGMAS, FLOW_UNIPC, FLOW_DPM_DYNAMIC), "none", 0.0),
    TinyPipeline("flux, distilled", "FLUX.1", builders.tiny_guided_flux, (FLOW_DYNAMIC,), "distilled"),
    TinyPipeline("flux2", "FLUX.2", builders.tiny_flux2, (*_OWN_SIGMAS, FLOW_UNIPC), "two calls"),
    TinyPipeline("sana", "Sana 1.0", builders.tiny_sana, _SANA),
    TinyPipeline("sana15", "Sana 1.5", builders.tiny_sana15, _SANA),
    TinyPipeline("lumina2", "Lumina-Image 2", tiny.tiny_lumina2, (*_OWN_SIGMAS, FLOW_UNIPC), "two calls"),
    TinyPipeline("z-image", "Z-Image", builders.tiny_z_image, _OWN_SIGMAS),
    TinyPipeline("qwen-image", "Qwen-Image", builders.tiny_qwen_image, (*_OWN_SIGMAS, FLOW_UNIPC), "none"),
    TinyPipeline(
        "wan",
        "Wan (text to video)",
        builders.tiny_wan,
        (FLOW_UNIPC, FLOW_EULER, FLOW_SHIFTED, FLOW_HEUN, FLOW_DPM, FLOW_DPM_SDE),
        "two calls",
    ),
)

PAIRS: tuple[tuple[TinyPipeline, Sampler], ...] = tuple((own, sampler) for own in PIPELINES for sampler in own.samplers)


def replays(family: str) -> tuple[str, ...]:
    """Return the samplers with which a family's replay is shown to change no bit, by the names of the documents."""
    return tuple(dict.fromkeys(sampler.name for own, sampler in PAIRS if own.family == family))


def folder_of(own: TinyPipeline, under: Path) -> Path:
    """Where a pipeline's tokenisers are written."""
    return under / own.name.replace(", ", "-").replace(" ", "-")


COMPILED: tuple[TinyPipeline, ...] = tuple(own for own in PIPELINES if own.name in _COMPILED)
