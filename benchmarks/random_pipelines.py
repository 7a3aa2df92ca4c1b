"""Pipelines for denoisers with random weights, as diffusers builds them, with a random VAE of the published size.

Text encoders are left out: a search encodes its prompts once, so that their time is no part of anything measured. In
their place every prompt has a random encoding of the size that the denoiser wants.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor, nn

#: Text tokens of SDXL's encoders, and of FLUX.1-schnell's.
_SDXL_TOKENS, _FLUX_TOKENS = 77, 256
_NO_TEXT = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))


def vae(channels: int = 4, size: int = 256, **settings: Any) -> Any:
    """The VAE of Stable Diffusion, which DiT and SDXL have too; FLUX's has more channels of latents."""
    return AutoencoderKL(
        sample_size=size,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **settings,
    ).eval()


def dit_pipeline(denoiser: nn.Module) -> Any:
    return DiTPipeline(transformer=denoiser, vae=vae(), scheduler=DDIMScheduler())


def sdxl_pipeline(denoiser: nn.Module, own_vae: Any = None) -> Any:
    """Two rows of encodings, the unconditional ones apart."""
    pipe = StableDiffusionXLPipeline(
        unet=denoiser,
        vae=vae(size=1024, scaling_factor=0.13025) if own_vae is None else own_vae,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
        **_NO_TEXT,
    )
    config = pipe.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def encode(prompt: list[str], **_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        texts = [random_text(denoiser, len(prompt), _SDXL_TOKENS, config.cross_attention_dim) for _ in range(2)]
        whole = [random_text(denoiser, len(prompt), pooled) for _ in range(2)]
        return texts[0], texts[1], whole[0], whole[1]

    pipe.encode_prompt = encode
    return pipe


def flux_pipeline(denoiser: nn.Module, own_vae: Any = None) -> Any:
    """Guidance is none of FLUX.1-schnell's; positions of the text are all zero."""
    published = {
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    pipe = FluxPipeline(
        transformer=denoiser,
        vae=vae(16, 1024, **published) if own_vae is None else own_vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **_NO_TEXT,
    )
    config = pipe.transformer.config

    def encode(prompt: list[str], **_: object) -> tuple[Tensor, Tensor, Tensor]:
        text = random_text(denoiser, len(prompt), _FLUX_TOKENS, config.joint_attention_dim)
        positions = torch.zeros(_FLUX_TOKENS, 3, device=text.device, dtype=text.dtype)
        return text, random_text(denoiser, len(prompt), config.pooled_projection_dim), positions

    pipe.encode_prompt = encode
    return pipe


def random_text(denoiser: nn.Module, *shape: int) -> Tensor:
    """Return the same encoding of the shape every time, where the denoiser is."""
    like = next(denoiser.parameters())
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
