"""Dense pipelines by the names that recipes use: "zoo:NAME", a folder, or a Hub id."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from diff_es import zoo
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError

_ZOO = "zoo:"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """Return the device that a recipe names; "auto" is CUDA where there is one.

    Raises:
        InputError: no such device here, or one that Diff-ES does not run on.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device={name!r} is no device; use auto, cpu or cuda.") from error
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"device={name!r} is not supported; use auto, cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name!r}, but no CUDA device is available; use cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name!r}, but there are only {torch.cuda.device_count()} CUDA devices.")
    return device


def load_pipeline(model: str | Path, dtype: str | torch.dtype = "float32", device: str = "auto") -> Any:
    """Load a dense pipeline for inference.

    Args:
        model: "zoo:NAME", a folder, or a Hub id.
        dtype: "float32", "float16" or "bfloat16", or torch's own.
        device: "auto", "cpu", "cuda", …

    Raises:
        InputError: the model cannot be loaded, or another dtype.
    """
    model, weights = str(model), _DTYPES.get(str(dtype).removeprefix("torch."))
    if weights is None:
        raise InputError(f"dtype={dtype!r} is none to load models in; use {', '.join(_DTYPES)}.")
    if model.startswith(_ZOO):
        return zoo.load_pipeline(model.removeprefix(_ZOO), weights).to(resolve_device(device))
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        pipe = DiffusionPipeline.from_pretrained(model, dtype=weights, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model={model!r} cannot be loaded as a diffusers pipeline: {error} Give zoo:NAME "
            f"({', '.join(zoo.names('pipeline'))}), a folder written by save_pretrained, or a Hub id."
        ) from error
    return pipe.to(resolve_device(device))


def image_size(pipe: Any, arguments: Mapping[str, Any] | None = None) -> int:
    """Height and width in pixels of what the pipeline makes.

    Args:
        pipe: The pipeline.
        arguments: What else its call is given; without `height` and `width` it makes its default size.

    Raises:
        InputError: the pipeline does not say, or makes images that are no squares.
    """
    asked = [(arguments or {}).get(name) for name in ("height", "width")]
    if asked[0] is not None and asked[0] == asked[1]:
        return int(asked[0])
    if asked != [None, None]:
        raise InputError(f"height={asked[0]}, width={asked[1]} is no square: calibrate with source: sampling.")
    config: Any = denoiser_of(pipe).config
    # FLUX's denoiser takes any size; its pipeline has a default. Other pipelines take it from their denoiser.
    side = getattr(pipe, "default_sample_size", None) or config.get("sample_size")
    if not isinstance(side, int):
        raise InputError(
            f"{type(pipe).__name__} says sample_size={side}, which is no size of square images: calibrate with source: "
            "sampling."
        )
    return side * _vae_factor(pipe)


def latent_shape(pipe: Any, arguments: Mapping[str, Any] | None = None) -> tuple[int, int, int]:
    """Channels, height and width of one image's latents.

    Raises:
        InputError: see `image_size`.
    """
    side = image_size(pipe, arguments) // _vae_factor(pipe)
    return int(pipe.vae.config.latent_channels), side, side


def _vae_factor(pipe: Any) -> int:
    """Pixels for each latent, along one side; DiTPipeline alone does not say."""
    own = getattr(pipe, "vae_scale_factor", None)
    return int(own or 2 ** (len(pipe.vae.config.block_out_channels) - 1))
