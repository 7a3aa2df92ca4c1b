"""Tiny models in the place of the published sizes, in the benchmarks' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from support import tiny_pipe
from text_models import text_config
from tiny_pipelines import WIDTH, tiny_flux, tiny_sdxl, tiny_vae

LEVELS, STAGES, STEPS = 4, 4, 4


def tiny_sizes(folder: Path) -> dict[str, Any]:
    """Return a stand-in for each size: name → `RandomModel`."""
    from random_models import RandomModel  # noqa: PLC0415 (conftest puts its folder on the path)
    from random_pipelines import flux_pipeline, sdxl_pipeline  # noqa: PLC0415

    def flux(denoiser: Any) -> Any:
        pipe = flux_pipeline(denoiser, tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1))
        pipe.default_sample_size = 8
        return pipe

    def model(name: str, denoiser: Callable[[], Any], pipeline: Any, call: Any, **settings: Any) -> Any:
        return RandomModel(name, denoiser, pipeline, call, levels=LEVELS, stages=STAGES, steps=STEPS, **settings)

    sdxl = partial(sdxl_pipeline, own_vae=tiny_vae())
    return {
        "dit-xl": model("tiny DiT", lambda: tiny_pipe().transformer, dit, dit_call),
        "sdxl": model("tiny SDXL", lambda: tiny_sdxl(folder).unet, sdxl, unet_call),
        "flux": model("tiny FLUX", lambda: tiny_flux(folder).transformer, flux, flux_call, guided=False),
    }


def dit(denoiser: Any) -> Any:
    pipe = tiny_pipe()
    pipe.transformer = denoiser
    return pipe


def dit_call(rows: int, timestep: Tensor, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    labels = torch.zeros(rows, dtype=torch.int64)
    return {"hidden_states": torch.randn(rows, 4, 4, 4), "timestep": timestep.expand(rows), "class_labels": labels}


def unet_call(rows: int, timestep: Tensor, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    added = {"text_embeds": torch.randn(rows, text_config().projection_dim), "time_ids": torch.full((rows, 6), 16.0)}
    return {
        "sample": torch.randn(rows, 4, 8, 8),
        "timestep": timestep,
        "encoder_hidden_states": torch.randn(rows, 77, 2 * WIDTH),
        "added_cond_kwargs": added,
    }


def flux_call(rows: int, timestep: Tensor, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(rows, 16, 16),
        "encoder_hidden_states": torch.randn(rows, 8, WIDTH),
        "pooled_projections": torch.randn(rows, WIDTH),
        "timestep": timestep.expand(rows) / 1000,
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }
