"""What a pipeline run gives to compare: images, latents, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.errors import UnsupportedModelError
from diff_es.sampling import ImageRequests, SamplerConfig, at_decoding, sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Result:
    """One run of the pipeline.

    Attributes:
        images: Shape (N, 3, height, width), in [0, 1]; None where the run stopped before decoding.
        latents: Final latents in the denoiser's units, shape (N, C, h, w).
    """

    images: Tensor | None
    latents: Tensor

    def of(self, needs: str) -> Tensor:
        """Return "images" or "latents", whichever a metric needs."""
        chosen = self.images if needs == "images" else self.latents
        assert chosen is not None
        return chosen


class _Stop(Exception):  # noqa: N818 (ends a run early, no error)
    """Leaves the pipeline before it decodes."""


def run(
    pipe: Any, requests: ImageRequests, sampler: SamplerConfig, *, decode: bool = True, device: str | None = "cpu"
) -> Result:
    """Sample once and keep the final latents.

    Args:
        pipe: The pipeline.
        requests: Labels or prompts, and seeds.
        sampler: Steps and guidance.
        decode: Whether images are wanted; without them the VAE does not run.
        device: Where the result is wanted; None leaves it where the pipeline made it.

    Raises:
        UnsupportedModelError: the pipeline has no VAE.
    """
    check_decoder(pipe)
    captured: list[Tensor] = []

    def capture(latents: Tensor) -> None:
        captured.append(_as_denoised(latents.detach().float().to(device), pipe.vae.config))
        if not decode:
            raise _Stop

    with at_decoding(pipe, capture):
        try:
            images: Tensor | None = sample(pipe, requests, sampler, device)
        except _Stop:
            pipe.maybe_free_model_hooks()
            images = None
    return Result(images, captured[0])


def check_decoder(pipe: Any) -> None:
    """Refuse a pipeline without the part that the final latents are taken from, before anything is computed.

    Raises:
        UnsupportedModelError: it has no VAE.
    """
    if getattr(pipe, "vae", None) is None:
        raise UnsupportedModelError(
            f"{type(pipe).__name__} has no VAE (pipe.vae), and what a search compares are its inputs and outputs: "
            "choose a latent diffusion model."
        )


def _as_denoised(latents: Tensor, config: Any) -> Tensor:
    """Turn what the VAE decodes into the denoiser's units: diffusers' pipelines do the reverse."""
    scale = config.get("scaling_factor") or 1.0
    shift = config.get("shift_factor") or 0.0
    if not config.get("latents_mean") or not config.get("latents_std"):
        return (latents - shift) * scale
    per_channel = (1, -1, *(1,) * (latents.ndim - 2))  # images, or videos
    mean, std = (
        torch.tensor(config[name], device=latents.device).view(per_channel) for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) * scale / std
