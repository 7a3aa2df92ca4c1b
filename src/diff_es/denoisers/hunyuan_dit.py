"""HunyuanDiT2DModel: a DiT with cross-attention and long skip connections from its first to its second half."""

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
        for path in stack(denoiser, "blocks")
        for layer in (
            attention_layer(denoiser, f"{path}.attn1"),
            attention_layer(denoiser, f"{path}.attn2"),
            feed_forward_layer(denoiser, f"{path}.ff"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Every block may be skipped; one of the second half takes its long skip connection with it."""
    return tuple(block(path, identity_block) for path in stack(denoiser, "blocks"))


SPEC = DenoiserSpec(
    architecture="HunyuanDiT2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    unbatched=("image_rotary_emb",),
    left_alone=(
        ("pos_embed", "patch embedding: its output is the residual stream"),
        ("text_embedder", "embedder of the text"),
        ("text_embedding_padding", "stands in for text tokens that are masked out"),
        ("time_extra_emb", "embedder of timestep, text and sizes"),
        ("skip_linear", "long skip connections: their output is the residual stream"),
        ("norm", "AdaLN acts on the full width of the residual stream"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
