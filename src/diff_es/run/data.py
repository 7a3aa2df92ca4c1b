"""Data sets by the names that recipes use, in the size that a pipeline works at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diff_es import zoo
from diff_es.calibration import read_folder, read_npz
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError
from diff_es.images import LabelledImages


def load_images(data: str, size: int) -> LabelledImages:
    """Read calibration images.

    Args:
        data: "zoo:fashion", an image folder with one subfolder per class, or an npz file.
        size: Height and width that the model works at; images of a folder are resized to it, others must have it.

    Raises:
        InputError: nothing there, an image that cannot be read, or images of another size.
    """
    path = Path(data)
    if data == "zoo:fashion":
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
