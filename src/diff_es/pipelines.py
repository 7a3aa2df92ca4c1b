"""Dense pipelines by the names that recipes use: "zoo:NAME", a folder, or a Hub id."""

from __future__ import annotations

import sys
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from diff_es import zoo
from diff_es.errors import InputError

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
