"""SanaTransformer2DModel (Sana): linear self-attention, cross-attention, and a gated convolutional FFN (GLUMBConv)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers.absent import identity_block
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.layers import Absent, GroupAttribute, GroupFamily, Layer, Span, block, stack
from diff_es.denoisers.plain import plain_module
from diff_es.denoisers.spec import DenoiserSpec, TimestepUnits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(layer for path in stack(denoiser, "transformer_blocks") for layer in _layers(denoiser, path))


def _layers(denoiser: nn.Module, path: str) -> Iterator[Layer]:
    """Linear self-attention, cross-attention where the block has one, and FFN."""
    own: Any = denoiser.get_submodule(path)
    yield attention_layer(denoiser, f"{path}.attn1")
    if own.attn2 is not None:
        yield attention_layer(denoiser, f"{path}.attn2")
    yield _convolutional(denoiser, f"{path}.ff")


def _convolutional(denoiser: nn.Module, path: str) -> Layer:
    """GLUMBConv: 1 × 1 in (value and gate), 3 × 3 on each channel alone, 1 × 1 out."""
    point: Any = plain_module(denoiser, f"{path}.conv_point")
    channels = point.in_channels
    offsets = (0, channels)
    family = GroupFamily(
        kind="channel",
        count=channels,
        rows=(
            *(Span(f"{path}.conv_inverted", offset=offset) for offset in offsets),
            *(Span(f"{path}.conv_depth", offset=offset, scored=False) for offset in offsets),
        ),
        columns=(Span(f"{path}.conv_point"),),
        attributes=(
            GroupAttribute(f"{path}.conv_depth", "groups", 2),
            GroupAttribute(f"{path}.conv_depth", "in_channels", 2),
        ),
        absent=Absent(path, _without_channels),
    )
    return Layer(path, "ffn", (family,))


def _without_channels(self: nn.Module, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001 (bound)
    """Its last convolution has no bias, so that nothing is left but zeros; PyTorch has none of no channels."""
    return hidden_states.new_zeros(hidden_states.shape)


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    return tuple(block(path, identity_block) for path in stack(denoiser, "transformer_blocks"))


def _units(denoiser: Any) -> TimestepUnits:
    return TimestepUnits(1 / denoiser.config.timestep_scale)


SPEC = DenoiserSpec(
    architecture="SanaTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    units=_units,
    left_alone=(
        ("patch_embed", "patch embedding: its output is the residual stream"),
        ("time_embed", "embedder of timestep and guidance"),
        ("caption", "embedder of the text"),
        ("scale_shift_table", "AdaLN of a block, or of the output, acts on the full width of the residual stream"),
        ("norm", "normalisation of the full width"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
