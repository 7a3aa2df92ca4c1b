"""Flux2Transformer2DModel (FLUX.2): as FLUX.1, with gated FFNs and one linear in and out of each single block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers.absent import identity_block, identity_joint_block, joint_attention_without_heads
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import gated_layer
from diff_es.denoisers.layers import Absent, GroupAttribute, GroupFamily, Layer, Span, block, stack
from diff_es.denoisers.spec import SHARE, DenoiserSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    double = [
        layer
        for path in stack(denoiser, "transformer_blocks")
        for layer in (
            attention_layer(denoiser, f"{path}.attn", joint_attention_without_heads),
            gated_layer(denoiser, f"{path}.ff", first=("linear_in",), second="linear_out"),
            gated_layer(denoiser, f"{path}.ff_context", first=("linear_in",), second="linear_out"),
        )
    ]
    return (*double, *(_parallel(denoiser, f"{path}.attn") for path in stack(denoiser, "single_transformer_blocks")))


def _parallel(denoiser: nn.Module, path: str) -> Layer:
    """A single block: the rows of one linear are q, k, v, gate and value; the columns of another heads and channels."""
    attention: Any = denoiser.get_submodule(path)
    entry, output = f"{path}.to_qkv_mlp_proj", f"{path}.to_out"
    heads, width, channels = attention.heads, attention.head_dim, attention.mlp_hidden_dim
    inner = heads * width
    return Layer(
        path,
        "parallel",
        (
            GroupFamily(
                kind="head",
                count=heads,
                rows=tuple(Span(entry, width, part * inner) for part in range(3)),
                columns=(Span(output, width),),
                attributes=(GroupAttribute(path, "heads", 1), GroupAttribute(path, "inner_dim", width)),
                absent=Absent(path, _without_heads),
            ),
            GroupFamily(
                kind="channel",
                count=channels,
                rows=tuple(
                    Span(entry, offset=3 * inner + part * channels) for part in range(attention.mlp_mult_factor)
                ),
                columns=(Span(output, offset=inner),),
                attributes=(GroupAttribute(path, "mlp_hidden_dim", 1),),
            ),
        ),
    )


def _without_heads(self: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Only the FFN: all rows of the first linear are its gates and values then."""
    result: Tensor = self.to_out(self.mlp_act_fn(self.to_qkv_mlp_proj(hidden_states)))
    return result


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    double = (block(path, identity_joint_block) for path in stack(denoiser, "transformer_blocks"))
    single = (block(path, identity_block) for path in stack(denoiser, "single_transformer_blocks"))
    return (*double, *single)


SPEC = DenoiserSpec(
    architecture="Flux2Transformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    units=lambda _: SHARE,
    pack=None,
    unbatched=("img_ids", "txt_ids"),
    left_alone=(
        ("modulation", "one AdaLN for all blocks acts on the full width of the residual stream"),
        ("time_guidance_embed", "embedder of timestep and guidance"),
        ("context_embedder", "embedder of the text: its output is the residual stream"),
        ("x_embedder", "embedder of the latents: its output is the residual stream"),
        ("norm_out", "AdaLN of the output layer"),
        ("proj_out", "output layer: it reads the residual stream"),
    ),
)
