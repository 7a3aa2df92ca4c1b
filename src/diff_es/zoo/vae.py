"""``fashion-vae``: a small ``AutoencoderKL``, 32 x 32 x 3 images to 8 x 8 x 4 latents."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from diffusers import AutoencoderKL

from diff_es.images import to_tensor
from diff_es.progress import track
from diff_es.zoo.data import IMAGE_SIZE, full_set
from diff_es.zoo.training import LoopConfig, SaveConfig, fit

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

LATENT_CHANNELS: Final = 4
LATENT_SIZE: Final = 8
_ENCODE_BATCH: Final = 256


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """How ``fashion-vae`` is made.

    Attributes:
        channels: width at 32 x 32, 16 x 16 and 8 x 8.
        kl_weight: weight of the KL divergence (mean over latent elements) against the mean absolute pixel error.
            Large, so that the latents are smooth and near zero mean.
        final_kl_weight: the same while the learning rate decays. Smaller, so that details come in.
        bfloat16: train under bfloat16 autocast.
        loop: the learning plan.
    """

    channels: tuple[int, int, int] = (16, 32, 64)
    kl_weight: float = 1e-2
    final_kl_weight: float = 2e-3
    bfloat16: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=1800,
            batch_size=64,
            learning_rate=2e-3,
            warmup_steps=100,
            decay_steps=550,
            ema_decay=0.995,
            workers=2,
        )
    )


def build_vae(recipe: VaeRecipe) -> AutoencoderKL:
    """Build the untrained autoencoder; its weights follow from ``recipe.loop.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.loop.seed)
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=recipe.channels,
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=8,
            sample_size=IMAGE_SIZE,
        )


def vae_loss(vae: AutoencoderKL, images: torch.Tensor, kl_weight: float, generator: torch.Generator) -> torch.Tensor:
    """Mean absolute error of the reconstruction plus the weighted KL divergence to the unit Gaussian.

    Args:
        vae: the autoencoder.
        images: (B, 3, 32, 32) in [-1, 1].
        kl_weight: weight of the KL divergence, taken as the mean over latent elements.
        generator: of the posterior noise.
    """
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.sample(generator)).sample
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    error = torch.mean((decoded.float() - images).abs())
    return torch.add(error, divergence, alpha=kl_weight)


def train_vae(recipe: VaeRecipe, data: Path, save: SaveConfig) -> AutoencoderKL:
    """Train it on the training split in ``data`` and set its ``scaling_factor`` to 1 / std of the latents."""
    images = full_set(data, "train").images
    vae = build_vae(recipe)

    def loss(rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
        decaying = step >= recipe.loop.steps - recipe.loop.decay_steps
        kl_weight = recipe.final_kl_weight if decaying else recipe.kl_weight
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16, cache_enabled=False):
            return vae_loss(vae, to_tensor(images[rows.numpy()]), kl_weight, generator)

    trained = fit(vae, loss, len(images), recipe, save)
    assert isinstance(trained, AutoencoderKL)
    latents = encode(trained, to_tensor(images[:10_000]))
    trained.register_to_config(scaling_factor=1.0 / float(latents.std()))
    logger.info("latent mean %.3f, std %.3f", float(latents.mean()), float(latents.std()))
    return trained


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Posterior means of images, unscaled.

    Args:
        vae: the autoencoder.
        images: (N, 3, 32, 32) in [-1, 1].

    Returns:
        (N, 4, 8, 8) float32.
    """
    parts = torch.split(images, _ENCODE_BATCH)
    return torch.cat([vae.encode(part).latent_dist.mean for part in track(parts, "Encoding", total=len(parts))])
