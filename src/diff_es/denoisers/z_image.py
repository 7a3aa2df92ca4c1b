"""ZImageTransformer2DModel (Z-Image): one stream of image and text tokens, with refiners for each before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers.absent import attention_without_heads, identity_block
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import gated_layer
from diff_es.denoisers.layers import Layer, block, stack
from diff_es.denoisers.spec import SHARE_DONE, DenoiserSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


_STACKS = ("noise_refiner", "context_refiner", "layers")


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Attention and gated FFN of every block."""
    return tuple(
        layer
        for path in stack(denoiser, *_STACKS)
        for layer in (
            attention_layer(denoiser, f"{path}.attention", attention_without_heads),
            gated_layer(denoiser, f"{path}.feed_forward", first=("w1", "w3"), second="w2"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, _identity) for path in stack(denoiser, *_STACKS))


def _identity(self: nn.Module, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Its blocks call their input `x`."""
    return identity_block(self, x)


SPEC = DenoiserSpec(
    architecture="ZImageTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    timestep_argument="t",
    units=lambda _: SHARE_DONE,
    latents_argument="x",
    pack=None,
    left_alone=(
        ("adaLN_modulation", "AdaLN acts on the full width of the residual stream"),
        ("all_x_embedder", "embedder of the latents: its output is the residual stream"),
        ("all_final_layer", "output layer: it reads the residual stream"),
        ("cap_embedder", "embedder of the text: its output is the residual stream"),
        ("pad_token", "stand in for tokens that fill up a sequence"),
        ("t_embedder", "embedder of the timestep"),
        ("norm", "normalisation of the full width"),
    ),
)
