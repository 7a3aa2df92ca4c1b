"""The built-in measures of fidelity to the dense model: one value per sample, NaN where a sample is not finite.

A pruned model that overflows in half precision makes black or NaN images. Such a sample must lose: whatever the
formula below would return, a sample with any NaN or infinity gets NaN, and the other samples keep their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from diff_es.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

#: Half-width of SSIM's 11 × 11 Gaussian window; mirroring the border needs an image larger than that.
_MIRRORED = 5


def ssim(candidate: Tensor, dense: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) as torchmetrics computes it: Gaussian window 11 × 11, sigma 1.5.

    The mean runs over all channels and pixels; at the border the image is mirrored. scikit-image averages only the
    pixels whose window lies inside the image (22 × 22 of 32 × 32), so its mean differs in the third digit.

    Args:
        candidate: (N, 3, H, W) in [0, 1].
        dense: (N, 3, H, W) in [0, 1].

    Returns:
        (N,) in [-1, 1]; 1 for identical images.

    Raises:
        InputError: an image is outside [0, 1] or smaller than 6 × 6.
    """
    candidate, dense = _images("candidate", candidate), _images("dense", dense)
    if min(candidate.shape[-2:]) <= _MIRRORED:
        raise InputError(f"ssim needs images of at least 6 × 6, got {tuple(candidate.shape)}; compare latents instead.")
    values = structural_similarity_index_measure(candidate, dense, sigma=1.5, data_range=1.0, reduction="none")
    return _nan_where_not_finite(values.reshape(-1), candidate, dense)


def psnr(candidate: Tensor, dense: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, −10 log10 of the mean squared error.

    Args:
        candidate: (N, 3, H, W) in [0, 1].
        dense: (N, 3, H, W) in [0, 1].

    Returns:
        (N,) in dB; +inf for identical images.

    Raises:
        InputError: an image is outside [0, 1].
    """
    candidate, dense = _images("candidate", candidate), _images("dense", dense)
    values: Tensor = peak_signal_noise_ratio(candidate, dense, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return _nan_where_not_finite(values, candidate, dense)


def latent_mse(candidate: Tensor, dense: Tensor) -> Tensor:
    """Mean squared difference of the latents.

    Args:
        candidate: (N, C, h, w), any float type.
        dense: (N, C, h, w), any float type.

    Returns:
        (N,) float32 or float64, 0 for identical latents.
    """
    candidate, dense = _full_precision(candidate), _full_precision(dense)
    values = (candidate - dense).flatten(1).square().mean(dim=1)
    return _nan_where_not_finite(values, candidate, dense)


def latent_cosine(candidate: Tensor, dense: Tensor) -> Tensor:
    """Cosine of the angle between the latents, each sample flattened to one vector.

    Args:
        candidate: (N, C, h, w), any float type.
        dense: (N, C, h, w), any float type.

    Returns:
        (N,) float32 or float64 in [-1, 1]; NaN where one of the two is all zeros (no direction).
    """
    a, b = _full_precision(candidate).flatten(1), _full_precision(dense).flatten(1)
    values = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
    return _nan_where_not_finite(values, a, b)


def _images(name: str, images: Tensor) -> Tensor:
    """Check the layout and the range; NaN passes, because a broken image must score NaN and not stop a search."""
    if images.ndim != 4:
        raise InputError(f"{name} must be images of shape (N, 3, H, W), got {tuple(images.shape)}.")
    images = _full_precision(images)
    finite = images[images.isfinite()]
    if finite.numel() and (finite.min() < 0 or finite.max() > 1):
        low, high = float(finite.min()), float(finite.max())
        raise InputError(f"{name} must be images in [0, 1], got values from {low:.4g} to {high:.4g}.")
    return images


def _full_precision(values: Tensor) -> Tensor:
    """Half precision holds 3 digits: too few for a mean over thousands of squares."""
    return values if values.dtype == torch.float64 else values.float()


def _nan_where_not_finite(values: Tensor, *samples: Tensor) -> Tensor:
    """Replace the value of every sample that holds a NaN or an infinity by NaN."""
    finite = torch.stack([sample.flatten(1).isfinite().all(dim=1) for sample in samples]).all(dim=0)
    return values.where(finite, values.new_tensor(torch.nan))
