"""``fashion-dit``: a class-conditional ``DiTPipeline`` on the latents of ``fashion-vae``.

Three things differ from calling diffusers' training-mode model as it is, and each matters for guidance:

- Labels are dropped here, once per sample. In training mode each block of diffusers' model would drop them on its own,
  and the model would never see a wholly unconditional input.
- The output layers and the gates of every block start at zero, as in the DiT paper (arXiv 2212.09748).
- Rows of the label tables that no class uses are zero; weight decay and gradients leave them so.

Images are not flipped: shoes in Fashion-MNIST all point the same way, and mirrored ones would not look like the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diff_es.images import to_tensor
from diff_es.zoo.data import CLASS_NAMES, full_set
from diff_es.zoo.diffusion import add_noise, min_snr_error
from diff_es.zoo.training import LoopConfig, SaveConfig, fit
from diff_es.zoo.vae import LATENT_CHANNELS, LATENT_SIZE, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers import AutoencoderKL

NULL_CLASS: Final = 1000
"""Label of "no class"; hard-coded in ``DiTPipeline``."""


@dataclass(frozen=True, kw_only=True)
class DitRecipe:
    """How ``fashion-dit`` is made.

    Attributes:
        num_layers: transformer blocks.
        num_heads: attention heads per block.
        head_dim: channels per head.
        label_dropout: share of the samples that are trained without a class.
        snr_cap: the squared error at a timestep is weighted by min(SNR, cap) / SNR (min-SNR weighting, arXiv
            2303.09556), so that the nearly clean timesteps do not take all of a short training.
        bfloat16: train under bfloat16 autocast.
        loop: the learning plan.
    """

    num_layers: int = 8
    num_heads: int = 8
    head_dim: int = 16
    label_dropout: float = 0.1
    snr_cap: float = 5.0
    bfloat16: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=7000, batch_size=64, learning_rate=1e-3, warmup_steps=300, decay_steps=3000, workers=2
        )
    )


def build_scheduler() -> DDIMScheduler:
    """The noise process that the model is trained on and sampled with: 1,000 linear steps, no clipping of latents."""
    return DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)


def build_transformer(recipe: DitRecipe) -> DiTTransformer2DModel:
    """Build the untrained transformer, initialised as in the DiT paper from ``recipe.loop.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.loop.seed)
        model = DiTTransformer2DModel(
            num_attention_heads=recipe.num_heads,
            attention_head_dim=recipe.head_dim,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=recipe.num_layers,
            sample_size=LATENT_SIZE,
            patch_size=1,
            num_embeds_ada_norm=NULL_CLASS,
            norm_type="ada_norm_zero",
            activation_fn="gelu-approximate",
        )
        _initialise_(model)
    return model


@torch.no_grad()
def _initialise_(model: DiTTransformer2DModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    used = torch.zeros(NULL_CLASS + 1, 1)
    used[[*range(len(CLASS_NAMES)), NULL_CLASS]] = 1.0
    for block in model.transformer_blocks:
        embedding = block.norm1.emb
        for layer in (embedding.timestep_embedder.linear_1, embedding.timestep_embedder.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
        embedding.class_embedder.dropout_prob = 0
        nn.init.normal_(embedding.class_embedder.embedding_table.weight, std=0.02).mul_(used)
        nn.init.zeros_(block.norm1.linear.weight)
    for layer in (model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)


class NoisePredictionLoss:
    """Weighted squared error of the predicted noise, for batches of cached latents."""

    def __init__(
        self, transformer: DiTTransformer2DModel, latents: torch.Tensor, labels: torch.Tensor, recipe: DitRecipe
    ) -> None:
        """Keep the data.

        Args:
            transformer: the module that is trained.
            latents: (N, 4, 8, 8) clean latents, scaled to unit variance.
            labels: (N,) int64 classes.
            recipe: gives label dropout, weighting and precision.
        """
        self._transformer = transformer
        self._latents, self._labels, self._recipe = latents, labels, recipe
        self._alphas = build_scheduler().alphas_cumprod

    def __call__(self, rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """Return the loss of the latents ``rows`` (B,), a scalar; the same at every step."""
        clean, labels = self._latents[rows], self._labels[rows]
        noised = add_noise(clean, self._alphas, generator)
        dropped = torch.rand(len(rows), generator=generator) < self._recipe.label_dropout
        predicted = self._predict(noised.latents, noised.timesteps, labels.masked_fill(dropped, NULL_CLASS))
        return min_snr_error(predicted, noised, self._recipe.snr_cap)

    def _predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._recipe.bfloat16, cache_enabled=False):
            predicted: torch.Tensor = self._transformer(noisy, timestep=timesteps, class_labels=labels).sample
        return predicted.float()


def build_pipeline(transformer: DiTTransformer2DModel, vae: AutoencoderKL) -> DiTPipeline:
    """Put the parts together into a pipeline that knows the names of the ten classes."""
    names = dict(enumerate(CLASS_NAMES))
    pipeline = DiTPipeline(transformer=transformer, vae=vae, scheduler=build_scheduler(), id2label=names)
    pipeline.register_to_config(id2label={str(label): name for label, name in names.items()})
    return pipeline


def train_dit(
    recipe: DitRecipe,
    vae: AutoencoderKL,
    data: Path,
    save: SaveConfig,
    on_snapshot: Callable[[DiTPipeline, int], None] | None = None,
) -> DiTPipeline:
    """Train the transformer on the training split in ``data``, encoded by ``vae``.

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
    transformer = build_transformer(recipe)
    loss = NoisePredictionLoss(transformer, latents, torch.from_numpy(training.labels), recipe)

    def show(ema: nn.Module, step: int) -> None:
        assert on_snapshot is not None and isinstance(ema, DiTTransformer2DModel)
        on_snapshot(build_pipeline(ema, vae), step)

    if on_snapshot is not None:
        save = replace(save, on_snapshot=show)
    # The backward pass of the fused attention is slow on CPU at this size: twice the time per step.
    with sdpa_kernel(SDPBackend.MATH):
        trained = fit(transformer, loss, len(latents), recipe, save)
    assert isinstance(trained, DiTTransformer2DModel)
    return build_pipeline(trained, vae)
