"""Tiny transformers with cross-attention or class labels: DiT, PixArt, HunyuanDiT, Sana, Wan."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiTTransformer2DModel,
    HunyuanDiT2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    WanTransformer3DModel,
)
from diffusers.models.attention_processor import Attention, SanaLinearAttnProcessor2_0
from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

from diff_es.denoisers import Call
from families.family import noise


def dit() -> nn.Module:
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
        attention_bias=True,
    )


def dit_call(t: float) -> Call:
    return {
        "hidden_states": noise(2, 4, 8, 8, seed=t + 1),
        "timestep": torch.full((2,), int(t)),
        "class_labels": torch.tensor([1, 2]),
    }


def pixart() -> nn.Module:
    return PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        in_channels=4,
        cross_attention_dim=32,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
        caption_channels=16,
    )


def pixart_call(t: float) -> Call:
    return {
        "hidden_states": noise(2, 4, 8, 8, seed=t + 1),
        "encoder_hidden_states": noise(2, 6, 16, seed=2),
        "encoder_attention_mask": _mask(),
        "timestep": torch.full((2,), int(t)),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def hunyuan_dit() -> nn.Module:
    """Of four blocks the last has a long skip connection."""
    return HunyuanDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=8,
        cross_attention_dim_t5=8,
        pooled_projection_dim=4,
        hidden_size=32,
        text_len=4,
        text_len_t5=4,
        activation_fn="gelu-approximate",
    )


def hunyuan_dit_call(t: float) -> Call:
    return {
        "hidden_states": noise(2, 4, 8, 8, seed=t + 1),
        "timestep": torch.full((2,), float(t)),
        "encoder_hidden_states": noise(2, 4, 8, seed=2),
        "text_embedding_mask": torch.ones(2, 4),
        "encoder_hidden_states_t5": noise(2, 4, 8, seed=3),
        "text_embedding_mask_t5": torch.ones(2, 4),
        "image_meta_size": torch.tensor([[1024.0, 1024, 16, 16, 0, 0]] * 2),
        "style": torch.zeros(2, dtype=torch.int),
        "image_rotary_emb": [torch.cos(noise(16, 8, seed=5)), torch.sin(noise(16, 8, seed=5))],
    }


#: Sana 1.0 passes timesteps as they are, Sana 1.5 times 0.001.
SANA_15_SCALE = 0.001


def sana() -> nn.Module:
    return _sana(qk_norm=None, timestep_scale=1.0)


def sana15() -> nn.Module:
    return _sana(qk_norm="rms_norm_across_heads", timestep_scale=SANA_15_SCALE)


def _sana(**changes: Any) -> nn.Module:
    return SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=16,
        sample_size=4,
        **changes,
    )


def sana_call(t: float) -> Call:
    return {
        "hidden_states": noise(2, 4, 4, 4, seed=t + 1),
        "encoder_hidden_states": noise(2, 6, 16, seed=2),
        "encoder_attention_mask": _mask(),
        "timestep": torch.full((2,), float(t)),
    }


def sana15_call(t: float) -> Call:
    call = sana_call(t)
    return {**call, "timestep": call["timestep"] * SANA_15_SCALE}


def smaller_sana(model: Any, path: str, kept: int) -> nn.Module:
    own = model.get_submodule(path)
    crossing = path.endswith("attn2")
    return Attention(
        query_dim=32,
        heads=kept,
        kv_heads=kept,
        dim_head=16 if crossing else 8,
        bias=own.to_q.bias is not None,
        cross_attention_dim=32 if crossing else None,
        qk_norm="rms_norm_across_heads",
        processor=SanaAttnProcessor2_0() if crossing else SanaLinearAttnProcessor2_0(),
    )


def wan() -> nn.Module:
    return _wan()


def wan_with_image() -> nn.Module:
    """Image to video: cross-attention has keys and values for an image besides those for the text."""
    return _wan(added_kv_proj_dim=48, image_dim=8)


def _wan(**changes: Any) -> nn.Module:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        **changes,
    )


def wan_call(t: float) -> Call:
    return {
        "hidden_states": noise(2, 4, 2, 4, 4, seed=t + 1),
        "encoder_hidden_states": noise(2, 6, 16, seed=2),
        "timestep": torch.full((2,), float(t)),
    }


def wan_with_image_call(t: float) -> Call:
    """The model takes the last 512 tokens for the text."""
    return {
        **wan_call(t),
        "encoder_hidden_states": noise(2, 512, 16, seed=2),
        "encoder_hidden_states_image": noise(2, 5, 8, seed=3),
    }


def smaller_wan(model: Any, path: str, kept: int) -> nn.Module:
    own = model.get_submodule(path)
    return WanAttention(
        dim=48,
        heads=kept,
        dim_head=12,
        eps=own.norm_q.eps,
        added_kv_proj_dim=own.added_kv_proj_dim,
        cross_attention_dim_head=12 if path.endswith("attn2") else None,
        processor=type(own.processor)(),
    )


def _mask() -> torch.Tensor:
    """Of the six text tokens of the first sample two are padding."""
    mask = torch.ones(2, 6)
    mask[0, 4:] = 0
    return mask
