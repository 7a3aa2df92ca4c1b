"""Feed-forward modules of diffusers as layers: their hidden channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers.layers import GroupFamily, Layer, Span
from diff_es.denoisers.plain import plain_module

if TYPE_CHECKING:
    from torch import nn


def feed_forward_layer(denoiser: nn.Module, path: str) -> Layer:
    """Describe diffusers' `FeedForward`: one linear in, gated (GEGLU, SwiGLU) or not, one linear out."""
    return gated_layer(denoiser, path, first=("net.0.proj",), second="net.2")


def gated_layer(denoiser: nn.Module, path: str, *, first: tuple[str, ...], second: str) -> Layer:
    """Describe a feed-forward of linears.

    Args:
        denoiser: The model.
        path: Path of the feed-forward module.
        first: Linears in, from `path`; one that has several times as many rows as there are channels (value and gate
            in one) has them one after another.
        second: The linear out, from `path`.
    """
    output: Any = plain_module(denoiser, f"{path}.{second}")
    channels: int = output.weight.shape[1]
    rows = tuple(
        Span(f"{path}.{name}", offset=offset)
        for name in first
        for offset in range(0, _rows(denoiser, f"{path}.{name}"), channels)
    )
    columns = (Span(f"{path}.{second}"),)
    return Layer(path, "ffn", (GroupFamily("channel", channels, rows, columns),))


def _rows(denoiser: nn.Module, path: str) -> int:
    linear: Any = plain_module(denoiser, path)
    return int(linear.weight.shape[0])
