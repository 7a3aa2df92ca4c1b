"""Latents of several kinds of VAE, in the units of the denoiser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan

from diff_es.calibration import encode, latents
from diff_es.errors import InputError
from tiny_pipelines import tiny_dc_vae, tiny_flux, tiny_vae

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
SCALED = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 127.5 - 1


def of(vae: Any) -> Any:
    return SimpleNamespace(vae=vae)


def test_an_autoencoder_without_a_posterior() -> None:
    vae = tiny_dc_vae()
    with torch.no_grad():
        expected = vae.encode(SCALED).latent * vae.config.scaling_factor
    torch.testing.assert_close(encode(of(vae), IMAGES), expected)


def test_a_shift_is_undone_by_the_pipelines_own_decoding(tmp_path: Path) -> None:
    """FLUX decodes latents / scaling + shift: what comes out must be the mean of the posterior."""
    vae = tiny_flux(tmp_path).vae
    ours = encode(of(vae), IMAGES)
    with torch.no_grad():
        mean = vae.encode(SCALED).latent_dist.mean
    torch.testing.assert_close(ours / vae.config.scaling_factor + vae.config.shift_factor, mean)


def test_a_vae_that_overflows_in_half_precision_runs_in_float32() -> None:
    """As SDXL's own pipelines do; its weights are the very same afterwards."""
    vae = tiny_vae(force_upcast=True).half()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    exact = AutoencoderKL.from_config(vae.config)
    exact.load_state_dict({name: tensor.float() for name, tensor in before.items()})
    assert torch.equal(encode(of(vae), IMAGES), encode(of(exact.eval()), IMAGES))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
    assert vae.dtype == torch.float16


def test_large_images_go_through_the_vae_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, sizes = tiny_vae(), list[int]()
    whole = encode(of(vae), IMAGES)
    monkeypatch.setattr(latents, "_MAX_PIXELS", 2 * 16 * 16)
    vae.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    torch.testing.assert_close(encode(of(vae), IMAGES), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [2, 1]


def test_latents_that_are_not_finite_are_refused() -> None:
    vae = tiny_vae()
    torch.nn.init.constant_(vae.encoder.conv_in.bias, torch.nan)
    with pytest.raises(InputError, match=r"AutoencoderKL in torch\.float32 gives NaN or infinity"):
        encode(of(vae), IMAGES)


def test_a_vae_of_videos_is_refused() -> None:
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])
    with pytest.raises(InputError, match="AutoencoderKLWan, which has no scaling_factor: use source: sampling"):
        encode(of(vae), IMAGES)
