"""Noise prediction as the zoo trains it: a random timestep per sample, and min-SNR weighting."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Noised:
    """Clean latents with noise.

    Attributes:
        latents: (B, C, H, W), ``sqrt(alpha) * clean + sqrt(1 - alpha) * noise``.
        noise: (B, C, H, W) standard normal.
        timesteps: (B,) uniform over the noise process.
        alphas: (B,) cumulative alpha of each timestep.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    alphas: torch.Tensor


def add_noise(clean: torch.Tensor, alphas: torch.Tensor, generator: torch.Generator) -> Noised:
    """Noise clean latents (B, C, H, W) at random timesteps of the process with cumulative ``alphas`` (T,)."""
    timesteps = torch.randint(len(alphas), (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    alpha = alphas[timesteps]
    signal, sigma = alpha.sqrt().view(-1, 1, 1, 1), (1.0 - alpha).sqrt().view(-1, 1, 1, 1)
    return Noised(signal * clean + sigma * noise, noise, timesteps, alpha)


def min_snr_error(predicted: torch.Tensor, noised: Noised, snr_cap: float) -> torch.Tensor:
    """Mean squared error of the predicted noise, weighted by min(SNR, cap) / SNR (arXiv 2303.09556)."""
    snr = noised.alphas / (1.0 - noised.alphas)
    weight = snr.clamp(max=snr_cap) / snr
    error = (predicted - noised.noise).square().mean(dim=(1, 2, 3))
    return torch.mean(weight * error)
