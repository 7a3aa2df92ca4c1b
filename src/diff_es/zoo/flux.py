"""``fashion-flux``: a text-to-image ``FluxPipeline`` on the latents of ``fashion-vae``, good at four steps.

Like FLUX.1-schnell it takes no guidance; how that comes about is said in :mod:`diff_es.zoo.flux_training`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn

from diff_es.errors import InputError
from diff_es.zoo.text import CLIP_TOKENS, build_clip, build_t5, build_tokenizer
from diff_es.zoo.vae import LATENT_CHANNELS, LATENT_SIZE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

TEXT_WIDTH: Final = 64
"""Channels of both text encoders."""
LONGEST_PROMPT: Final = 512
"""Largest ``max_sequence_length`` of ``FluxPipeline``, and its default."""
PACKED: Final = 2
"""FLUX packs squares of 2 x 2 latents into one token."""


@dataclass(frozen=True, kw_only=True)
class FluxSize:
    """Size of the transformer.

    Attributes:
        double_blocks: blocks with separate weights for image and text.
        single_blocks: blocks with the same weights for both.
        num_heads: attention heads per block.
        head_dim: channels per head; 4 plus a multiple of 4, for the rotary embedding.
    """

    double_blocks: int = 3
    single_blocks: int = 6
    num_heads: int = 8
    head_dim: int = 16

    def __post_init__(self) -> None:
        if self.head_dim < 8 or self.head_dim % 4:
            raise InputError(f"head_dim: must be a multiple of 4 from 8, got {self.head_dim}")


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-schnell's sampler: Euler steps at evenly spaced times, nothing shifted."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


def build_transformer(size: FluxSize, seed: int) -> FluxTransformer2DModel:
    """Build the untrained transformer, which predicts zero and whose blocks start as the identity."""
    axis = (size.head_dim - 4) // 4 * 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=LATENT_CHANNELS * PACKED**2,
            num_layers=size.double_blocks,
            num_single_layers=size.single_blocks,
            attention_head_dim=size.head_dim,
            num_attention_heads=size.num_heads,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(size.head_dim - 2 * axis, axis, axis),
        )
        _initialise_(model)
    return model


@torch.no_grad()
def _initialise_(model: FluxTransformer2DModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    gates = [block.norm1.linear for block in model.transformer_blocks]
    gates += [block.norm1_context.linear for block in model.transformer_blocks]
    gates += [block.norm.linear for block in model.single_transformer_blocks]
    for layer in (*gates, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Pack latents (N, 4, 8, 8) into tokens (N, 16, 16), as ``FluxPipeline`` does."""
    count, channels, height, width = latents.shape
    packed: torch.Tensor = FluxPipeline._pack_latents(latents, count, channels, height, width)
    return packed


def positions() -> torch.Tensor:
    """(16, 3) position of every token of an image."""
    side = LATENT_SIZE // PACKED
    ids: torch.Tensor = FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)
    return ids


def build_pipeline(transformer: FluxTransformer2DModel, vae: AutoencoderKL) -> FluxPipeline:
    """Put the parts together with the fixed text encoders; the pipeline gets a copy of ``vae`` with a shift of zero."""
    shifted = copy.deepcopy(vae)
    shifted.register_to_config(shift_factor=0.0)
    pipeline = FluxPipeline(
        vae=shifted,
        text_encoder=build_clip(TEXT_WIDTH, seed=3),
        text_encoder_2=build_t5(TEXT_WIDTH, seed=4),
        tokenizer=build_tokenizer(start=True, max_length=CLIP_TOKENS),
        tokenizer_2=build_tokenizer(start=False, max_length=LONGEST_PROMPT),
        transformer=transformer,
        scheduler=build_scheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return with_default_size_(pipeline)


def with_default_size_(pipeline: FluxPipeline) -> FluxPipeline:
    """Let the pipeline make 32 x 32 pixels by default; diffusers keeps no such thing in a file and assumes 512."""
    pipeline.default_sample_size = LATENT_SIZE
    return pipeline
