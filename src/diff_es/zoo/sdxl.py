"""``fashion-sdxl``: a text-to-image ``StableDiffusionXLPipeline`` on the latents of ``fashion-vae``.

The U-Net has SDXL's structure at two resolutions: no attention at 8 x 8, three transformer layers wherever there is
attention at 4 x 4, and the size conditioning of SDXL. As in SDXL, attention and FFN take more than half of its
multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn

from diff_es.zoo.data import IMAGE_SIZE
from diff_es.zoo.text import CLIP_TOKENS, build_clip, build_projected_clip, build_tokenizer
from diff_es.zoo.training import LoopConfig
from diff_es.zoo.vae import LATENT_CHANNELS, LATENT_SIZE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

TEXT_WIDTH: Final = 32
"""Channels of each of the two text encoders; the U-Net reads both beside each other."""
POOLED_WIDTH: Final = 64
_SIZE_WIDTH: Final = 32
SIZES: Final = (IMAGE_SIZE, IMAGE_SIZE, 0, 0, IMAGE_SIZE, IMAGE_SIZE)
"""What SDXL is told of an image: original height and width, top left corner of the crop, target height and width."""


@dataclass(frozen=True, kw_only=True)
class SdxlRecipe:
    """How ``fashion-sdxl`` is made.

    Attributes:
        channels: width at 8 x 8 and at 4 x 4; multiples of 16.
        transformer_layers: transformer layers of every attention block at 4 x 4.
        num_heads: attention heads.
        caption_dropout: share of the samples that are trained with the empty caption.
        snr_cap: of the min-SNR weighting, as for ``fashion-dit``.
        bfloat16: train under bfloat16 autocast.
        loop: the learning plan.
    """

    channels: tuple[int, int] = (48, 128)
    transformer_layers: int = 3
    num_heads: int = 8
    caption_dropout: float = 0.1
    snr_cap: float = 5.0
    bfloat16: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=4200, batch_size=64, learning_rate=1e-3, warmup_steps=300, decay_steps=2400
        )
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """SDXL's sampler on the linear noise process of ``fashion-dit``.

    SDXL's own process keeps a little of the image at its noisiest timestep. Here it would keep the black background,
    which sampling does not start from.
    """
    return EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_schedule="linear", timestep_spacing="leading", steps_offset=1
    )


def build_unet(recipe: SdxlRecipe) -> UNet2DConditionModel:
    """Build the untrained U-Net, which predicts zero; its weights follow from ``recipe.loop.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.loop.seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=recipe.channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, recipe.transformer_layers),
            attention_head_dim=recipe.num_heads,  # diffusers' name for the number of heads of this U-Net
            use_linear_projection=True,
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=_SIZE_WIDTH,
            projection_class_embeddings_input_dim=POOLED_WIDTH + len(SIZES) * _SIZE_WIDTH,
            norm_num_groups=16,
        )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


def build_pipeline(unet: UNet2DConditionModel, vae: AutoencoderKL) -> StableDiffusionXLPipeline:
    """Put the parts together with the fixed text encoders.

    ``force_zeros_for_empty_prompt`` is off, unlike in SDXL's own configuration: the model was trained with the encoded
    empty caption, so that ``pipe("")`` and guidance mean the same "no caption".
    """
    tokenizer = build_tokenizer(start=True, max_length=CLIP_TOKENS)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=build_clip(TEXT_WIDTH, seed=1),
        text_encoder_2=build_projected_clip(TEXT_WIDTH, POOLED_WIDTH, seed=2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
