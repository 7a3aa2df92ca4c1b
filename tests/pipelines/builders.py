"""Tiny pipelines of the families that tests/tiny_pipelines.py leaves out: HunyuanDiT, Z-Image, Qwen-Image, Wan, …

Where a pipeline makes images of 1024 × 1024 whatever the model, the autoencoder halves the sides so often that few
latents are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtSigmaPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    BertConfig,
    BertModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from support import tiny_pipe
from text_models import letter_tokenizer, letter_tokens, tiny_text_pipe
from tiny_pipelines import WIDTH, flow, quiet, tiny_flux, tiny_gemma, tiny_pixart, tiny_sd3, tiny_t5, tiny_vae

#: Qwen's text models: one layer of two heads.
_QWEN = {
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def tiny_dit(_folder: Path, scheduler: Any = None) -> Any:
    pipe = tiny_pipe()
    pipe.scheduler = scheduler or pipe.scheduler
    return pipe


def tiny_sd15(folder: Path, scheduler: Any = None) -> StableDiffusionPipeline:
    pipe = tiny_text_pipe(folder)
    pipe.scheduler = scheduler or pipe.scheduler
    return pipe


def tiny_sigma(folder: Path, scheduler: Any = None) -> PixArtSigmaPipeline:
    """PixArt-Σ; its denoiser is of the same class as PixArt-α's."""
    return quiet(PixArtSigmaPipeline(**{**tiny_pixart(folder).components, "scheduler": scheduler or _solver()}))


def _solver() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler()


def tiny_hunyuan_dit(folder: Path, scheduler: Any = None) -> HunyuanDiTPipeline:
    """Four blocks; the last has a long skip connection. Its pipeline takes a latent for 8 pixels: patches are large."""
    torch.manual_seed(0)
    sizes = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=len(letter_tokens()), hidden_size=WIDTH, **sizes)).eval()
    transformer = HunyuanDiT2DModel(
        sample_size=128,
        patch_size=16,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=4,
        hidden_size=32,
        activation_fn="gelu-approximate",
    ).eval()
    tokenizer = letter_tokenizer(folder)
    return quiet(
        HunyuanDiTPipeline(
            vae=tiny_vae(blocks=4),
            text_encoder=bert,
            tokenizer=tokenizer,
            text_encoder_2=tiny_t5(),
            tokenizer_2=tokenizer,
            transformer=transformer,
            scheduler=scheduler or DDPMScheduler(prediction_type="v_prediction"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def tiny_dc_vae(halvings: int) -> AutoencoderDC:
    """Sana's kind of autoencoder."""
    torch.manual_seed(0)
    blocks = halvings + 1
    return AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock",) * blocks,
        decoder_block_types=("ResBlock",) * blocks,
        encoder_block_out_channels=(4,) * blocks,
        decoder_block_out_channels=(4,) * blocks,
        encoder_qkv_multiscales=((),) * blocks,
        decoder_qkv_multiscales=((),) * blocks,
        encoder_layers_per_block=(1,) * blocks,
        decoder_layers_per_block=[1] * blocks,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    ).eval()


class _BriefSana(SanaPipeline):
    """Without the long instruction that it would put before each prompt: a letter is a token here."""

    def __call__(self, prompt: Any, sigmas: Any = None, **settings: Any) -> Any:
        return super().__call__(prompt, sigmas=sigmas, complex_human_instruction=None, **settings)


def tiny_sana(folder: Path, scheduler: Any = None, **settings: Any) -> SanaPipeline:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        sample_size=32,
        patch_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        **settings,
    ).eval()
    parts = {"tokenizer": letter_tokenizer(folder), "text_encoder": tiny_gemma(), "vae": tiny_dc_vae(5)}
    return quiet(_BriefSana(**parts, transformer=transformer, scheduler=scheduler or flow(shift=3.0)))


def tiny_sana15(folder: Path, scheduler: Any = None) -> SanaPipeline:
    """Its norms run across the heads."""
    return tiny_sana(folder, scheduler, qk_norm="rms_norm_across_heads")


def tiny_sd35(folder: Path, scheduler: Any = None) -> StableDiffusion3Pipeline:
    """Its first block has an attention on the image alone besides the joint one."""
    return tiny_sd3(folder, scheduler, qk_norm="rms_norm", dual_attention_layers=(0,))


class _BriefKlein(Flux2KleinPipeline):
    """Reads its text from the layers that a tiny text model has."""

    def __call__(self, prompt: Any, sigmas: Any = None, **settings: Any) -> Any:
        own = {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 16}
        return super().__call__(prompt=prompt, sigmas=sigmas, **own, **settings)


def tiny_flux2(folder: Path, scheduler: Any = None) -> Flux2KleinPipeline:
    """FLUX.2 [klein]; [dev] has the same denoiser, and a text model that reads images too."""
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=[2, 2, 2, 2],
        guidance_embeds=False,
    ).eval()
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    text = tiny_qwen3(Qwen3ForCausalLM)
    parts = {"tokenizer": chat_tokenizer(folder), "text_encoder": text, "vae": vae}
    pipe = _BriefKlein(**parts, transformer=transformer, scheduler=scheduler or flow(use_dynamic_shifting=True))
    pipe.default_sample_size = 8  # of no configuration file
    return quiet(pipe)


def tiny_qwen3(kind: type[Any]) -> Any:
    """Two layers, so that its hidden states are three."""
    return kind(Qwen3Config(vocab_size=len(letter_tokens()), head_dim=8, **{**_QWEN, "num_hidden_layers": 2})).eval()


def chat_tokenizer(folder: Path) -> Any:
    """Its chat is the prompt alone."""
    tokenizer = letter_tokenizer(folder)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return tokenizer


def tiny_z_image(folder: Path, scheduler: Any = None) -> ZImagePipeline:
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        qk_norm=True,
        cap_feat_dim=WIDTH,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[4, 2, 2],
        axes_lens=[1024, 32, 32],
    ).eval()
    for name, parameter in transformer.named_parameters():
        if name.endswith("pad_token"):  # without values of its own until it is loaded
            torch.nn.init.normal_(parameter)
    vae = tiny_vae(blocks=7, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4)
    text = tiny_qwen3(Qwen3Model)
    parts = {"tokenizer": chat_tokenizer(folder), "text_encoder": text, "vae": vae}
    return quiet(ZImagePipeline(**parts, transformer=transformer, scheduler=scheduler or flow(shift=3.0)))


def tiny_qwen_image(folder: Path, scheduler: Any = None) -> QwenImagePipeline:
    torch.manual_seed(0)
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    config = Qwen2_5_VLConfig(
        text_config={**_QWEN, "rope_scaling": rope, "rope_theta": 1e6, "vocab_size": len(letter_tokens())},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    text = Qwen2_5_VLForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.5, 1.0],
    ).eval()
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    ).eval()
    parts = {"tokenizer": letter_tokenizer(folder), "text_encoder": text, "vae": vae}
    pipe = QwenImagePipeline(**parts, transformer=transformer, scheduler=scheduler or flow(use_dynamic_shifting=True))
    pipe.default_sample_size = 8  # of no configuration file
    # The template has a letter a token here, and what is cut off at its start is counted in tokens.
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "{}", 0
    return quiet(pipe)


@dataclass
class _Stills:
    images: Any


class _StillWan(WanPipeline):
    """Videos of one small frame, given as images."""

    def __call__(self, prompt: Any, **settings: Any) -> Any:
        size = {"height": 16, "width": 16, "num_frames": 1, "max_sequence_length": 16}
        return _Stills(super().__call__(prompt, **size, **settings).frames[:, 0])


def tiny_wan(folder: Path, scheduler: Any = None) -> WanPipeline:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.5, 1.0],
    ).eval()
    parts = {"tokenizer": letter_tokenizer(folder), "text_encoder": tiny_t5(), "vae": vae}
    sampler = scheduler or UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return quiet(_StillWan(**parts, transformer=transformer, scheduler=sampler))


class _WithEta(StableDiffusionPipeline):
    """DDIM with noise at every step: `eta` is an argument of the call."""

    def __call__(self, prompt: Any, **settings: Any) -> Any:
        return super().__call__(prompt, eta=1.0, **settings)


def tiny_sd15_with_eta(folder: Path, scheduler: Any = None) -> StableDiffusionPipeline:
    return quiet(_WithEta(**tiny_sd15(folder, scheduler).components, requires_safety_checker=False))


def tiny_guided_flux(folder: Path, scheduler: Any = None) -> Any:
    """Its guidance is an embedding, as of FLUX.1-dev."""
    return tiny_flux(folder, scheduler, guidance=True)
