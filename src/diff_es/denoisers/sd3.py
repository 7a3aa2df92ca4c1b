"""SD3Transformer2DModel (Stable Diffusion 3 and 3.5): joint attention over image and text tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers.absent import identity_joint_block, joint_attention_without_heads
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import feed_forward_layer
from diff_es.denoisers.layers import Layer, block, stack
from diff_es.denoisers.spec import DenoiserSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(layer for path in stack(denoiser, "transformer_blocks") for layer in _layers(denoiser, path))


def _layers(denoiser: nn.Module, path: str) -> Iterator[Layer]:
    """Joint attention, in some blocks of 3.5 a second one of the image alone, and an FFN each for image and text.

    The last block has no FFN for the text, and no output projection: nothing reads its text tokens.
    """
    own: Any = denoiser.get_submodule(path)
    yield attention_layer(denoiser, f"{path}.attn", joint_attention_without_heads)
    if own.attn2 is not None:
        yield attention_layer(denoiser, f"{path}.attn2", joint_attention_without_heads)
    yield feed_forward_layer(denoiser, f"{path}.ff")
    if own.ff_context is not None:
        yield feed_forward_layer(denoiser, f"{path}.ff_context")


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, identity_joint_block) for path in stack(denoiser, "transformer_blocks"))


SPEC = DenoiserSpec(
    architecture="SD3Transformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    left_alone=(
        ("norm", "AdaLN acts on the full width of the residual stream"),
        ("pos_embed", "patch embedding: its output is the residual stream"),
        ("context_embedder", "embedder of the text: its output is the residual stream"),
        ("time_text_embed", "embedder of timestep and text"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
