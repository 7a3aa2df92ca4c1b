"""Oracles: scikit-image for SSIM and PSNR, plain float64 numpy for the latent metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from diff_es.errors import InputError
from diff_es.metrics import latent_cosine, latent_mse, metrics, psnr, ssim


def image_pair(dtype: torch.dtype, size: int = 32) -> tuple[Tensor, Tensor]:
    """Five images and distorted copies, from nearly equal to unrelated."""
    generator = torch.Generator().manual_seed(7)
    dense = torch.rand(5, 3, size, size, generator=generator, dtype=torch.float64)
    noise = torch.rand(5, 3, size, size, generator=generator, dtype=torch.float64)
    share = torch.tensor([0.01, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64).reshape(5, 1, 1, 1)
    return (share * noise + (1 - share) * dense).to(dtype), dense.to(dtype)


def scikit_image_ssim(candidate: Tensor, dense: Tensor) -> float:
    """Mirror the border, let scikit-image make the map, and average the pixels of the original image."""
    border = 5
    a, b = (
        np.pad(x.double().numpy(), ((0, 0), (border, border), (border, border)), "reflect") for x in (candidate, dense)
    )
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, similarity = structural_similarity(a, b, channel_axis=0, full=True, **settings)
    return float(similarity[:, border:-border, border:-border].mean())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("size", [11, 32, 45])
def test_ssim_equals_scikit_image(dtype: torch.dtype, tolerance: float, size: int) -> None:
    candidate, dense = image_pair(dtype, size)
    expected = [scikit_image_ssim(a, b) for a, b in zip(candidate, dense, strict=True)]
    np.testing.assert_allclose(ssim(candidate, dense).numpy(), expected, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_psnr_equals_scikit_image(dtype: torch.dtype, tolerance: float) -> None:
    candidate, dense = image_pair(dtype)
    expected = [
        peak_signal_noise_ratio(b.double().numpy(), a.double().numpy(), data_range=1.0)
        for a, b in zip(candidate, dense, strict=True)
    ]
    np.testing.assert_allclose(psnr(candidate, dense).numpy(), expected, atol=tolerance)


def test_latent_metrics_equal_plain_numpy() -> None:
    generator = torch.Generator().manual_seed(3)
    candidate = torch.randn(4, 4, 8, 8, generator=generator)
    dense = torch.randn(4, 4, 8, 8, generator=generator)
    a, b = candidate.numpy().astype(np.float64).reshape(4, -1), dense.numpy().astype(np.float64).reshape(4, -1)
    cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    np.testing.assert_allclose(latent_mse(candidate, dense).numpy(), ((a - b) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(latent_cosine(candidate, dense).numpy(), cosine, atol=1e-6)


def test_identical_samples_get_the_best_value() -> None:
    images, _ = image_pair(torch.float32)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ssim(images, images), torch.ones(5))
    assert psnr(images, images).isposinf().all()
    assert latent_mse(latents, latents).tolist() == [0.0, 0.0, 0.0]
    assert torch.allclose(latent_cosine(latents, latents), torch.ones(3))


@pytest.mark.parametrize("name", ["ssim", "psnr", "latent_mse", "latent_cosine"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["candidate", "dense"])
def test_a_sample_that_is_not_finite_gets_nan_and_leaves_the_others_alone(name: str, broken: float, side: str) -> None:
    candidate, dense = image_pair(torch.float32)
    healthy = metrics[name](candidate, dense)
    (candidate if side == "candidate" else dense)[2, 1, 4, 4] = broken
    values = metrics[name](candidate, dense)
    assert values[2].isnan()
    others = [0, 1, 3, 4]
    assert torch.equal(values[others], healthy[others])


@pytest.mark.parametrize("name", ["ssim", "psnr", "latent_mse", "latent_cosine"])
def test_values_do_not_depend_on_the_batch(name: str) -> None:
    candidate, dense = image_pair(torch.float32)
    alone = torch.cat([metrics[name](candidate[i : i + 1], dense[i : i + 1]) for i in range(5)])
    assert torch.allclose(metrics[name](candidate, dense), alone, rtol=1e-6)


def test_half_precision_latents_are_compared_in_single() -> None:
    dense = torch.full((1, 4, 8, 8), 100.0, dtype=torch.bfloat16)
    value = latent_mse(dense * 4, dense)
    assert value.dtype == torch.float32
    assert value.item() == 90_000.0


def test_latents_without_a_direction_have_no_cosine() -> None:
    assert latent_cosine(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)).isnan().all()


def test_images_outside_the_unit_range_are_refused() -> None:
    images, _ = image_pair(torch.float32)
    with pytest.raises(InputError, match=r"dense must be images in \[0, 1\], got values from -1 to"):
        ssim(images, torch.where(images == images.min(), -1.0, images))
    with pytest.raises(InputError, match=r"candidate must be images in \[0, 1\]"):
        psnr(images * 255, images)


def test_images_too_small_to_mirror_are_refused() -> None:
    with pytest.raises(InputError, match="at least 6 × 6"):
        ssim(torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5))


def test_images_need_four_dimensions() -> None:
    with pytest.raises(InputError, match="candidate must be images of shape"):
        psnr(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))
