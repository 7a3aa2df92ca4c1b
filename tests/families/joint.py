"""Tiny transformers with joint attention or one stream of tokens: SD3, SD3.5, FLUX, Qwen-Image, Lumina2, Z-Image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Lumina2Transformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from torch import nn

from diff_es.denoisers import Call
from families.family import noise


def sd3() -> nn.Module:
    return _sd3()


def sd35() -> nn.Module:
    """The first block has a second attention of the image alone."""
    return _sd3(dual_attention_layers=(0,), qk_norm="rms_norm")


def _sd3(**changes: Any) -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=8,
        **changes,
    )


def sd3_call(t: float) -> Call:
    return {
        "hidden_states": noise(2, 4, 8, 8, seed=t + 1),
        "encoder_hidden_states": noise(2, 9, 32, seed=2),
        "pooled_projections": noise(2, 64, seed=3),
        "timestep": torch.full((2,), float(t)),
    }


def flux() -> nn.Module:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )


def flux_call(t: float) -> Call:
    places = torch.zeros(16, 3)
    places[:, 1], places[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    return {
        "hidden_states": noise(2, 16, 16, seed=t + 1),
        "encoder_hidden_states": noise(2, 6, 32, seed=2),
        "pooled_projections": noise(2, 32, seed=3),
        "timestep": torch.full((2,), float(t)) / 1000,
        "img_ids": places,
        "txt_ids": torch.zeros(6, 3),
        "guidance": torch.tensor([3.5, 3.5]),
    }


def flux2() -> nn.Module:
    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        timestep_guidance_channels=256,
        axes_dims_rope=[2, 2, 2, 2],
    )


def flux2_call(t: float) -> Call:
    one, four = torch.arange(1), torch.arange(4)
    return {
        "hidden_states": noise(2, 16, 4, seed=t + 1),
        "encoder_hidden_states": noise(2, 6, 32, seed=2),
        "timestep": torch.full((2,), float(t)) / 1000,
        "img_ids": torch.cartesian_prod(one, four, four, one).unsqueeze(0).expand(2, -1, -1),
        "txt_ids": torch.cartesian_prod(one, one, one, torch.arange(6)).unsqueeze(0).expand(2, -1, -1),
        "guidance": torch.tensor([3.5, 3.5]),
    }


def qwen_image() -> nn.Module:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(4, 2, 2),
    )


def qwen_image_call(t: float) -> Call:
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 6:] = 0
    return {
        "hidden_states": noise(2, 16, 16, seed=t + 1),
        "encoder_hidden_states": noise(2, 8, 16, seed=2),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((2,), float(t)) / 1000,
        "img_shapes": [[(1, 4, 4)]] * 2,
    }


def lumina2() -> nn.Module:
    """Eight heads in four groups that share keys and values."""
    return Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=8,
        num_kv_heads=4,
        multiple_of=2,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=(2, 2, 0),
        axes_lens=(64, 64, 64),
        cap_feat_dim=32,
    )


def lumina2_call(t: float) -> Call:
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = False
    return {
        "hidden_states": noise(2, 4, 8, 8, seed=t + 1),
        "encoder_hidden_states": noise(2, 8, 32, seed=2),
        "timestep": 1 - torch.full((2,), float(t)) / 1000,
        "encoder_attention_mask": mask,
    }


def z_image() -> nn.Module:
    return ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[4, 2, 2],
        axes_lens=[256, 32, 32],
    )


def z_image_call(t: float) -> Call:
    return {
        "x": list(noise(2, 4, 1, 8, 8, seed=t + 1)),
        "t": (1000 - torch.full((2,), float(t))) / 1000,
        "cap_feats": [noise(5, 16, seed=2), noise(8, 16, seed=3)],
    }
