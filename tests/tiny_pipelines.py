"""Tiny text-to-image pipelines of several families, random weights, for images of 16 × 16 (PixArt: 256)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)

from text_models import letter_tokenizer, letter_tokens, text_config

WIDTH = 16


def tiny_vae(channels: int = 4, blocks: int = 2, **settings: Any) -> AutoencoderKL:
    """Each block but the first halves the sides."""
    torch.manual_seed(0)
    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(4,) * blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        **settings,
    ).eval()


def tiny_clip(kind: type[Any] = CLIPTextModel) -> Any:
    torch.manual_seed(0)
    return kind(text_config()).eval()


def tiny_t5() -> T5EncoderModel:
    torch.manual_seed(0)
    sizes = {"d_model": WIDTH, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(letter_tokens()), **sizes)).eval()


def tiny_gemma() -> Gemma2Model:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return Gemma2Model(Gemma2Config(vocab_size=len(letter_tokens()), **sizes, **heads)).eval()


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flow(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**settings)


def tiny_sdxl(folder: Path, scheduler: Any = None, *, side: int = 16) -> StableDiffusionXLPipeline:
    """A U-Net with three transformer blocks of four heads; two text encoders, image sizes among its conditions."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=side // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=text_config().projection_dim + 6 * 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()
    tokenizer = letter_tokenizer(folder)
    return quiet(
        StableDiffusionXLPipeline(
            vae=tiny_vae(),
            text_encoder=tiny_clip(),
            text_encoder_2=tiny_clip(CLIPTextModelWithProjection),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=scheduler or EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
            add_watermarker=False,
        )
    )


def tiny_flux(folder: Path, scheduler: Any = None, *, guidance: bool = False) -> FluxPipeline:
    """One double and one single block of four heads on 16 image tokens."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    ).eval()
    tokenizer = letter_tokenizer(folder)
    pipe = FluxPipeline(
        scheduler=scheduler or flow(),
        vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=tiny_clip(),
        tokenizer=tokenizer,
        text_encoder_2=tiny_t5(),
        tokenizer_2=tokenizer,
        transformer=transformer,
    )
    pipe.default_sample_size = 8  # FLUX keeps it in no file
    return quiet(pipe)


def tiny_sd3(folder: Path, scheduler: Any = None, **settings: Any) -> StableDiffusion3Pipeline:
    """Two joint blocks of four heads; two text encoders, the third left out."""
    torch.manual_seed(0)
    projection = text_config().projection_dim
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * projection,
        pos_embed_max_size=8,
        **settings,
    ).eval()
    tokenizer = letter_tokenizer(folder)
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=scheduler or flow(shift=3.0),
            vae=tiny_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4),
            text_encoder=tiny_clip(CLIPTextModelWithProjection),
            tokenizer=tokenizer,
            text_encoder_2=tiny_clip(CLIPTextModelWithProjection),
            tokenizer_2=tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )
    )


def tiny_pixart(folder: Path, scheduler: Any = None) -> PixArtAlphaPipeline:
    """Its pipeline knows but a few sizes; the smallest has 32 × 32 latents."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=32,
        patch_size=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    ).eval()
    parts = {"tokenizer": letter_tokenizer(folder), "text_encoder": tiny_t5(), "vae": tiny_vae(blocks=4)}
    return quiet(
        PixArtAlphaPipeline(**parts, transformer=transformer, scheduler=scheduler or DPMSolverMultistepScheduler())
    )


def tiny_lumina2(folder: Path, scheduler: Any = None) -> Lumina2Pipeline:
    """Calls its denoiser twice at each guided step."""
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=8,
        scaling_factor=1.0,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 32, 32),
        cap_feat_dim=WIDTH,
    ).eval()
    parts = {"tokenizer": letter_tokenizer(folder), "text_encoder": tiny_gemma()}
    vae = tiny_vae(blocks=4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4)
    return quiet(Lumina2Pipeline(**parts, transformer=transformer, vae=vae, scheduler=scheduler or flow()))


def tiny_dc_vae() -> AutoencoderDC:
    """Sana's kind of autoencoder; halves the sides once."""
    torch.manual_seed(0)
    return AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    ).eval()


def tiny_sana(folder: Path, scheduler: Any = None) -> SanaPipeline:
    """Not to be called at its default size, which is 1024 × 1024 whatever the model."""
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=WIDTH,
    ).eval()
    parts = {"tokenizer": letter_tokenizer(folder), "text_encoder": tiny_gemma(), "vae": tiny_dc_vae()}
    return quiet(SanaPipeline(**parts, transformer=transformer, scheduler=scheduler or flow(shift=3.0)))


BUILDERS: dict[str, Callable[..., Any]] = {
    "sdxl": tiny_sdxl,
    "flux": tiny_flux,
    "sd3": tiny_sd3,
    "pixart": tiny_pixart,
    "lumina2": tiny_lumina2,
}
