"""FluxTransformer2DModel (FLUX.1): double blocks with joint attention, then single blocks on all tokens at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers.absent import (
    attention_without_result,
    identity_joint_block,
    joint_attention_without_heads,
)
from diff_es.denoisers.attention import attention_layer, head_family
from diff_es.denoisers.feed_forward import feed_forward_layer
from diff_es.denoisers.layers import GroupAttribute, GroupFamily, Layer, Span, block, stack
from diff_es.denoisers.plain import plain_module
from diff_es.denoisers.spec import SHARE, DenoiserSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    double = [
        layer
        for path in stack(denoiser, "transformer_blocks")
        for layer in (
            attention_layer(denoiser, f"{path}.attn", joint_attention_without_heads),
            feed_forward_layer(denoiser, f"{path}.ff"),
            feed_forward_layer(denoiser, f"{path}.ff_context"),
        )
    ]
    return (*double, *(_parallel(denoiser, path) for path in stack(denoiser, "single_transformer_blocks")))


def _parallel(denoiser: nn.Module, path: str) -> Layer:
    """A single block: heads and FFN channels side by side are the columns of one output projection, heads first."""
    output = f"{path}.proj_out"
    heads = head_family(denoiser, f"{path}.attn", attention_without_result, output)
    channels: Any = plain_module(denoiser, f"{path}.proj_mlp")
    columns: Any = plain_module(denoiser, output)
    count = channels.out_features
    family = GroupFamily(
        kind="channel",
        count=count,
        rows=(Span(f"{path}.proj_mlp"),),
        columns=(Span(output, offset=columns.in_features - count),),
        attributes=(GroupAttribute(path, "mlp_hidden_dim", 1),),
    )
    return Layer(path, "parallel", (heads, family))


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    paths = (*stack(denoiser, "transformer_blocks"), *stack(denoiser, "single_transformer_blocks"))
    return tuple(block(path, identity_joint_block) for path in paths)


def packed(latents: Tensor) -> Tensor:
    """Turn latents (N, C, h, w) into tokens of 2 × 2 patches, (N, h/2 · w/2, 4 C), as the pipeline does."""
    rows, channels, height, width = latents.shape
    patches = latents.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, height // 2 * (width // 2), 4 * channels)


SPEC = DenoiserSpec(
    architecture="FluxTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    units=lambda _: SHARE,
    pack=packed,
    unbatched=("img_ids", "txt_ids"),
    left_alone=(
        ("norm", "AdaLN acts on the full width of the residual stream"),
        ("time_text_embed", "embedder of timestep, guidance and text"),
        ("context_embedder", "embedder of the text: its output is the residual stream"),
        ("x_embedder", "embedder of the latents: its output is the residual stream"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
