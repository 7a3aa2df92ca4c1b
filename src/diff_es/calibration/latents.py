"""Clean latents of calibration images, as the denoiser of the pipeline knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from diff_es.errors import InputError
from diff_es.images import to_tensor
from diff_es.progress import track

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels per call of the VAE, whose memory grows with them: 64 images of 256 × 256, 4 of 1024 × 1024.
_MAX_PIXELS = 64 * 256 * 256


def encode(pipe: Any, images: npt.NDArray[np.uint8], batch_size: int = 64) -> Tensor:
    """Encode images to clean latents in the denoiser's units, shape (N, C, h, w), float32 on the CPU.

    Args:
        pipe: Gives the VAE; the mean of its posterior is taken.
        images: uint8, shape (N, height, width, 3).
        batch_size: Images per call of the VAE, at most; large images go in smaller batches.

    Raises:
        InputError: a VAE of another kind (of videos), or one that gives NaN or infinity.
    """
    starts = track(range(0, len(images), batch_size), "Encoding images")
    return torch.cat([encode_batch(pipe, images[start : start + batch_size]) for start in starts])


@torch.no_grad()
def encode_batch(pipe: Any, images: npt.NDArray[np.uint8]) -> Tensor:
    """Encode one batch as `encode` does, without a progress bar."""
    vae = pipe.vae
    scaling = vae.config.get("scaling_factor")
    if scaling is None:
        raise InputError(
            f"calibration.source=dataset is not known for {type(vae).__name__}, which has no scaling_factor: use "
            "source: sampling."
        )
    size = max(1, _MAX_PIXELS // (images.shape[1] * images.shape[2]))
    with _precise(vae):
        parameter = next(vae.parameters())
        parts = torch.split(to_tensor(images), size)
        latents = [_mean(vae, part.to(parameter.device, parameter.dtype)).float().cpu() for part in parts]
    found: Tensor = (torch.cat(latents) - (vae.config.get("shift_factor") or 0.0)) * scaling
    if not found.isfinite().all():
        raise InputError(
            f"The VAE {type(vae).__name__} in {parameter.dtype} gives NaN or infinity for the calibration images; try "
            "dtype: bfloat16 or float32."
        )
    return found


def _mean(vae: Any, scaled: Tensor) -> Tensor:
    """Return the mean of the posterior, or of a VAE without one (Sana's) what it gives."""
    encoded = vae.encode(scaled)
    latents: Tensor = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
    return latents


@contextmanager
def _precise(vae: Any) -> Iterator[None]:
    """Run a VAE that overflows in half precision (SDXL's) in float32, as its pipeline does; float16 is exact again."""
    dtype = next(vae.parameters()).dtype
    upcast = dtype == torch.float16 and vae.config.get("force_upcast")
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(dtype)
