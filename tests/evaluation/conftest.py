"""A real, tiny, untrained DiT pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel


@pytest.fixture(scope="session")
def tiny_dit() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        patch_size=2,
        sample_size=8,
        num_embeds_ada_norm=1001,
    ).eval()


@pytest.fixture(scope="session")
def tiny_pipe(tiny_dit: DiTTransformer2DModel) -> DiTPipeline:
    torch.manual_seed(1)
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks(2)).eval()
    names = {0: "shirt, top", 1: "shoe", 2: "bag"}
    return DiTPipeline(tiny_dit, vae, DDIMScheduler(clip_sample=False), id2label=names)


def blocks(count: int) -> dict[str, tuple[str, ...]]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * count,
        "up_block_types": ("UpDecoderBlock2D",) * count,
    }
