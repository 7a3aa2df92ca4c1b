"""UNet2DConditionModel (Stable Diffusion 1.5, 2 and XL): a U-Net of residual blocks with transformers between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers.models.attention import BasicTransformerBlock

from diff_es.denoisers.absent import identity_block
from diff_es.denoisers.attention import attention_layer
from diff_es.denoisers.feed_forward import feed_forward_layer
from diff_es.denoisers.layers import Layer, block
from diff_es.denoisers.spec import DenoiserSpec

if TYPE_CHECKING:
    from torch import nn


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Self-attention, cross-attention and FFN of every transformer block."""
    return tuple(
        layer
        for path in _block_paths(denoiser)
        for layer in (
            attention_layer(denoiser, f"{path}.attn1"),
            attention_layer(denoiser, f"{path}.attn2"),
            feed_forward_layer(denoiser, f"{path}.ff"),
        )
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Transformer blocks; residual and sampling blocks are never dropped."""
    return tuple(block(path, identity_block) for path in _block_paths(denoiser))


def _block_paths(denoiser: nn.Module) -> list[str]:
    """Paths in the order in which they run, which is not the one in which the modules were made."""
    found = [name for name, module in denoiser.named_modules() if isinstance(module, BasicTransformerBlock)]
    parts = ("down_blocks", "mid_block", "up_blocks")
    return sorted(found, key=lambda path: parts.index(path.partition(".")[0]))


SPEC = DenoiserSpec(
    architecture="UNet2DConditionModel",
    width_layers=_width_layers,
    blocks=_blocks,
    latents_argument="sample",
    left_alone=(
        ("resnets", "residual convolution blocks: pruning convolutions is not part of the method"),
        ("downsamplers", "convolutions between resolutions"),
        ("upsamplers", "convolutions between resolutions"),
        ("proj_in", "brings the feature map into the transformer: its output is the residual stream"),
        ("proj_out", "brings the residual stream back into the feature map"),
        ("conv", "first and last convolution: the width of the whole model"),
        ("time_embedding", "embedder of the timestep"),
        ("add_embedding", "embedder of text and sizes"),
        ("norm", "normalisation of the full width"),
    ),
)
