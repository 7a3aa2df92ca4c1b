"""Lumina2Transformer2DModel (Lumina-Image 2): one stream of tokens, grouped-query attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.denoisers.absent import identity_block
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import gated_layer
from diff_es.denoisers.layers import Layer, block, stack
from diff_es.denoisers.spec import SHARE_DONE, DenoiserSpec

if TYPE_CHECKING:
    from torch import nn


_STACKS = ("context_refiner", "noise_refiner", "layers")


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Attention, whose groups share keys and values, and gated FFN of every block."""
    return tuple(
        layer
        for path in stack(denoiser, *_STACKS)
        for layer in (
            attention_layer(denoiser, f"{path}.attn"),
            gated_layer(denoiser, f"{path}.feed_forward", first=("linear_1", "linear_3"), second="linear_2"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, identity_block) for path in stack(denoiser, *_STACKS))


SPEC = DenoiserSpec(
    architecture="Lumina2Transformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    units=lambda _: SHARE_DONE,
    left_alone=(
        ("norm", "AdaLN acts on the full width of the residual stream"),
        ("time_caption_embed", "embedder of timestep and text"),
        ("x_embedder", "embedder of the latents: its output is the residual stream"),
    ),
)
