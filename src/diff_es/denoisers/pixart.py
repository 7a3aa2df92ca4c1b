"""PixArtTransformer2DModel (PixArt-α and Σ): a DiT with cross-attention to the text and one shared AdaLN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.denoisers.absent import identity_block
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import feed_forward_layer
from diff_es.denoisers.layers import Layer, block, stack
from diff_es.denoisers.spec import DenoiserSpec

if TYPE_CHECKING:
    from torch import nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Self-attention, cross-attention and FFN of every block."""
    return tuple(
        layer
        for path in stack(denoiser, "transformer_blocks")
        for layer in (
            attention_layer(denoiser, f"{path}.attn1"),
            attention_layer(denoiser, f"{path}.attn2"),
            feed_forward_layer(denoiser, f"{path}.ff"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, identity_block) for path in stack(denoiser, "transformer_blocks"))


SPEC = DenoiserSpec(
    architecture="PixArtTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    left_alone=(
        ("pos_embed", "patch embedding: its output is the residual stream"),
        ("caption_projection", "embedder of the text"),
        ("adaln_single", "AdaLN and its embedders act on the full width of the residual stream"),
        ("scale_shift_table", "AdaLN of a block, or of the output, acts on the full width of the residual stream"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
