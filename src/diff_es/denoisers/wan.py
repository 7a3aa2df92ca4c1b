"""WanTransformer3DModel (Wan): video; self- and cross-attention whose norms run across the heads."""

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
            feed_forward_layer(denoiser, f"{path}.ffn"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, identity_block) for path in stack(denoiser, "blocks"))


SPEC = DenoiserSpec(
    architecture="WanTransformer3DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    pack=None,
    left_alone=(
        ("patch_embedding", "embedder of the latents: its output is the residual stream"),
        ("condition_embedder", "embedder of timestep and text"),
        ("scale_shift_table", "AdaLN of a block, or of the output, acts on the full width of the residual stream"),
        ("norm", "normalisation of the full width"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
