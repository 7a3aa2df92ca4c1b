"""Pipelines and data sets by the names that recipes use: "zoo:NAME", a folder, or a Hub id."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from diff_es import zoo
from diff_es.bank import PrunedInfo
from diff_es.calibration import read_folder, read_npz
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError
from diff_es.images import LabelledImages
from diff_es.schedulers import with_recorded_scheduler

_ZOO = "zoo:"


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


def load_pipeline(model: str, dtype: str = "float32", device: str = "auto") -> Any:
    """Load a dense pipeline for inference.

    Args:
        model: "zoo:NAME", a folder, or a Hub id.
        dtype: "float32", "float16" or "bfloat16".
        device: "auto", "cpu", "cuda", …

    Raises:
        InputError: the model cannot be loaded.
    """
    weights = getattr(torch, dtype)
    if model.startswith(_ZOO):
        return zoo.load_pipeline(model.removeprefix(_ZOO), weights).to(resolve_device(device))
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        pipe = DiffusionPipeline.from_pretrained(model, dtype=weights, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model={model!r} cannot be loaded as a diffusers pipeline: {error} Give zoo:NAME "
            f"({', '.join(zoo.names())}), a folder written by save_pretrained, or a Hub id."
        ) from error
    return pipe.to(resolve_device(device))


def load_base(info: PrunedInfo, model: str | None, device: str) -> Any:
    """Load the dense pipeline of an artefact, with the scheduler that its schedule was searched for.

    Args:
        info: The artefact's manifest.
        model: Where the dense pipeline is; by default where the artefact says.
        device: "auto", "cpu", "cuda", …

    Raises:
        InputError: the model cannot be loaded, or the scheduler does not sample from it.
    """
    pipe = load_pipeline(model or info.base_model, info.fingerprint.dtype, device)
    if info.scheduler_config is None:
        return pipe
    return with_recorded_scheduler(pipe, info.scheduler, info.scheduler_config)


def load_images(data: str, size: int) -> LabelledImages:
    """Read calibration images.

    Args:
        data: "zoo:fashion", an image folder with one subfolder per class, or an npz file.
        size: Height and width that the model works at; images of a folder are resized to it, others must have it.

    Raises:
        InputError: nothing there, an image that cannot be read, or images of another size.
    """
    path = Path(data)
    if data == f"{_ZOO}fashion":
        images = zoo.calibration_set()
    else:
        images = read_npz(path) if path.suffix == ".npz" else read_folder(path, size)
    height, width = images.images.shape[1:3]
    if (height, width) != (size, size):
        raise InputError(
            f"calibration.data={data} holds images of {height} × {width} pixels, the model makes {size} × {size}: "
            "give an image folder (its images are resized), or calibrate with source: sampling."
        )
    return images


def image_size(pipe: Any) -> int:
    """Height and width in pixels of what the pipeline makes."""
    default = getattr(pipe, "default_sample_size", None)  # FLUX counts in latents there, its denoiser in nothing
    config: Any = denoiser_of(pipe).config
    latents = default or config.sample_size
    return int(latents * 2 ** (len(pipe.vae.config.block_out_channels) - 1))
