"""Tiny U-Nets: Stable Diffusion 1.5 and XL."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from diff_es.denoisers import Call
from families.family import noise


def sd15() -> nn.Module:
    return _unet(cross_attention_dim=32, attention_head_dim=4)


def sd15_call(t: float) -> Call:
    return {
        "sample": noise(2, 4, 8, 8, seed=t + 1),
        "timestep": torch.tensor(int(t)),
        "encoder_hidden_states": noise(2, 7, 32, seed=2),
    }


def sdxl() -> nn.Module:
    """Two transformer blocks in a row, linear projections around them, text and sizes in the embedding."""
    return _unet(
        up_block_types=("UpBlock2D", "UpBlock2D"),  # a small suite: Stable Diffusion 1.5 has transformers on the way up
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
    )


def sdxl_call(t: float) -> Call:
    return {
        "sample": noise(2, 4, 8, 8, seed=t + 1),
        "timestep": torch.tensor(float(t)),
        "encoder_hidden_states": noise(2, 7, 32, seed=2),
        "added_cond_kwargs": {"text_embeds": noise(2, 32, seed=3), "time_ids": noise(2, 6, seed=4)},
    }


def _unet(**changes: Any) -> nn.Module:
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        norm_num_groups=8,
        **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **changes},
    )
