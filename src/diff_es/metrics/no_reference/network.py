"""A trained network as a pure function images → scores: loaded once, in eval mode, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate

from diff_es.artifacts import sha256
from diff_es.errors import InputError
from diff_es.metrics.no_reference.weights import PublishedWeights, chosen_file, know, published_file

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Shorter side, in pixels, below which an image is enlarged. CLIP's own input has it; at 32 pixels the last feature
#: map of both networks is a single point, and below that CLIP's network cannot run.
MINIMUM_SIDE = 224


@dataclass(frozen=True)
class _Loaded:
    module: nn.Module
    sha256: str
    #: The file that the user had named; None for the library's own.
    chosen: Path | None


class QualityNetwork:
    """A no-reference metric: (N, 3, H, W) in [0, 1] → (N,) float32, higher is better.

    An image with a NaN or an infinity scores NaN, the others keep their scores. Images whose shorter side is below
    224 pixels are enlarged to it (bicubic, aspect ratio kept); all others are scored as they are.
    """

    def __init__(
        self, metric: str, published: Callable[[], PublishedWeights], build: Callable[[Path], nn.Module]
    ) -> None:
        """Describe a network without loading it.

        Args:
            metric: Name of the metric.
            published: Returns what the library publishes; may raise where the library is not installed.
            build: Weights file → module that maps (N, 3, H, W) in [0, 1] to (N, 1).
        """
        self._metric = metric
        self._published = published
        self._build = build
        self._loaded: _Loaded | None = None
        know(metric)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Score images on their own device.

        Raises:
            InputError: not images in [0, 1], the library is not installed, or its weights are missing or damaged.
        """
        images = checked_images("candidate", images)
        finite = images.flatten(1).isfinite().all(dim=1)
        values = images.new_full(images.shape[:1], torch.nan)
        if finite.any():
            module = self._load().module.to(images.device)
            values[finite] = module(enlarge(images[finite])).reshape(-1).to(values)
        return values

    def weights_sha256(self) -> str:
        """Return the sha256 of the weights file in use, loading it if it was not yet.

        Raises:
            InputError: the library is not installed, or its weights are missing or damaged.
        """
        return self._load().sha256

    def _load(self) -> _Loaded:
        """Read the weights, unless they were read from the same place before."""
        chosen = chosen_file(self._metric)
        if self._loaded is None or self._loaded.chosen != chosen:
            path = chosen or published_file(self._metric, self._published)
            self._loaded = _Loaded(self._build(path).eval().requires_grad_(False), sha256(path), chosen)
        return self._loaded


def enlarge(images: Tensor) -> Tensor:
    """Enlarge small images so that their shorter side has 224 pixels.

    Args:
        images: (N, 3, H, W) in [0, 1].

    Returns:
        (N, 3, H', W') in [0, 1] with min(H', W') ≥ 224; the same tensor where nothing has to be done.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter >= MINIMUM_SIDE:
        return images
    size = [round(side * MINIMUM_SIDE / shorter) for side in (height, width)]
    # Bicubic interpolation overshoots at edges; both libraries refuse values outside [0, 1].
    return interpolate(images, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def checked_images(name: str, images: Tensor) -> Tensor:
    """Check layout and range; NaN passes, because a broken image must score NaN and not stop a search.

    Args:
        name: Name of the argument, for the message.
        images: (N, 3, H, W) in [0, 1].

    Returns:
        The images as float32.

    Raises:
        InputError: another shape or type, or values outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(
            f"{name} must be float images of shape (N, 3, H, W), got {images.dtype} {tuple(images.shape)}."
        )
    if ((images < 0) | (images > 1)).any():
        low, high = float(images.min()), float(images.max())
        raise InputError(f"{name} must be images in [0, 1], got values from {low:.4g} to {high:.4g}.")
    return images.float()
