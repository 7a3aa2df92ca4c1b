"""DiTTransformer2DModel (Peebles & Xie, 2023): class-conditional latents, AdaLN-Zero blocks."""

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
    """Self-attention and FFN of every block."""
    return tuple(
        layer
        for path in stack(denoiser, "transformer_blocks")
        for layer in (attention_layer(denoiser, f"{path}.attn1"), feed_forward_layer(denoiser, f"{path}.ff"))
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Every block may be skipped; block 0 stays in place, because the final layer uses its embedder."""
    return tuple(block(path, identity_block) for path in stack(denoiser, "transformer_blocks"))


SPEC = DenoiserSpec(
    architecture="DiTTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    left_alone=(
        ("norm1", "AdaLN and the timestep and class embedders act on the full width of the residual stream"),
        ("pos_embed", "patch embedding: its output is the residual stream"),
        ("proj_out", "output layers: they read the residual stream"),
    ),
)
