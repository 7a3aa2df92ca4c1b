"""How ``fashion-sdxl`` is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from diff_es.images import to_tensor
from diff_es.zoo.conditioning import ALL_CAPTIONS, CaptionTable, draw_captions
from diff_es.zoo.data import full_set
from diff_es.zoo.diffusion import add_noise, min_snr_error
from diff_es.zoo.sdxl import SIZES, SdxlRecipe, build_pipeline, build_scheduler, build_unet
from diff_es.zoo.training import SaveConfig, fit
from diff_es.zoo.vae import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers import AutoencoderKL, StableDiffusionXLPipeline
    from torch import nn


@torch.no_grad()
def caption_table(pipeline: StableDiffusionXLPipeline) -> CaptionTable:
    """Encode all training captions as the pipeline itself does."""
    tokens, _, pooled, _ = pipeline.encode_prompt(list(ALL_CAPTIONS), device="cpu", do_classifier_free_guidance=False)
    return CaptionTable(tokens, pooled)


class CaptionedNoiseLoss:
    """Weighted squared error of the predicted noise, for batches of cached latents and captions."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        latents: torch.Tensor,
        labels: torch.Tensor,
        captions: CaptionTable,
        recipe: SdxlRecipe,
    ) -> None:
        """Keep the data.

        Args:
            unet: the module that is trained.
            latents: (N, 4, 8, 8) clean latents, scaled to unit variance.
            labels: (N,) int64 classes.
            captions: the encoded captions.
            recipe: gives caption dropout, weighting and precision.
        """
        self._unet, self._latents, self._labels, self._captions = unet, latents, labels, captions
        self._recipe = recipe
        self._alphas = build_scheduler().alphas_cumprod

    def __call__(self, rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """Return the loss of the latents ``rows`` (B,), a scalar; the same at every step."""
        noised = add_noise(self._latents[rows], self._alphas, generator)
        captions = draw_captions(self._labels[rows], self._recipe.caption_dropout, generator)
        predicted = self._predict(noised.latents, noised.timesteps, captions)
        return min_snr_error(predicted, noised, self._recipe.snr_cap)

    def _predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor(SIZES, dtype=torch.float32).expand(len(noisy), -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._recipe.bfloat16, cache_enabled=False):
            predicted: torch.Tensor = self._unet(
                noisy,
                timesteps,
                encoder_hidden_states=self._captions.tokens[captions],
                added_cond_kwargs={"text_embeds": self._captions.pooled[captions], "time_ids": sizes},
            ).sample
        return predicted.float()


def train_sdxl(
    recipe: SdxlRecipe,
    vae: AutoencoderKL,
    data: Path,
    save: SaveConfig,
    on_snapshot: Callable[[StableDiffusionXLPipeline, int], None],
) -> StableDiffusionXLPipeline:
    """Train the U-Net on the training split in ``data``, encoded by ``vae``.

    Args:
        recipe: the recipe.
        vae: the trained autoencoder; becomes part of the pipeline.
        data: folder of Fashion-MNIST.
        save: the run folder and the intervals.
        on_snapshot: called with the pipeline so far (EMA weights) and the number of finished steps.

    Returns:
        The pipeline with the EMA weights after the last step.
    """
    training = full_set(data, "train")
    latents = encode(vae, to_tensor(training.images)) * vae.config.scaling_factor
    unet = build_unet(recipe)
    captions = caption_table(build_pipeline(unet, vae))
    loss = CaptionedNoiseLoss(unet, latents, torch.from_numpy(training.labels), captions, recipe)

    def show(ema: nn.Module, step: int) -> None:
        assert isinstance(ema, UNet2DConditionModel)
        on_snapshot(build_pipeline(ema, vae), step)

    # As for fashion-dit: the backward pass of the fused attention is slow on CPU at this size.
    with sdpa_kernel(SDPBackend.MATH):
        trained = fit(unet, loss, len(latents), recipe, replace(save, on_snapshot=show))
    assert isinstance(trained, UNet2DConditionModel)
    return build_pipeline(trained, vae)
