"""QwenImageTransformer2DModel (Qwen-Image): joint attention over image and text tokens in every block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.denoisers.absent import identity_joint_block, joint_attention_without_heads
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import feed_forward_layer
from diff_es.denoisers.layers import Layer, block, stack
from diff_es.denoisers.spec import SHARE, DenoiserSpec

if TYPE_CHECKING:
    from torch import nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Joint attention, and an FFN each for image and text."""
    return tuple(
        layer
        for path in stack(denoiser, "transformer_blocks")
        for layer in (
            attention_layer(denoiser, f"{path}.attn", joint_attention_without_heads),
            feed_forward_layer(denoiser, f"{path}.img_mlp"),
            feed_forward_layer(denoiser, f"{path}.txt_mlp"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, identity_joint_block) for path in stack(denoiser, "transformer_blocks"))


SPEC = DenoiserSpec(
    architecture="QwenImageTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    units=lambda _: SHARE,
    pack=None,
    left_alone=(
        ("img_mod", "AdaLN acts on the full width of the residual stream"),
        ("txt_mod", "AdaLN acts on the full width of the residual stream"),
        ("img_in", "embedder of the latents: its output is the residual stream"),
        ("txt_in", "embedder of the text: its output is the residual stream"),
        ("txt_norm", "normalisation of the text's full width"),
        ("time_text_embed", "embedder of the timestep"),
        ("norm_out", "AdaLN of the output layer"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
