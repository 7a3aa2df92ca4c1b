"""Oracles: scipy's matrix square root, torch-fidelity, and closed forms in one dimension and for equal covariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from diff_es.errors import InputError
from diff_es.metrics import Gaussian, frechet_between, frechet_distance, gaussian


def features(rows: int, columns: int, seed: int, scale: float = 1.0) -> Tensor:
    """Correlated features, so that the covariances do not commute."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mixing + seed


def scipy_distance(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(root)))


@pytest.mark.parametrize("columns", [2, 8, 64])
def test_it_equals_the_matrix_square_root_of_scipy(columns: int) -> None:
    a, b = features(300, columns, 0), features(200, columns, 1, scale=1.5)
    expected = scipy_distance(a.numpy(), b.numpy())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_fewer_images_than_features_agree_with_the_exact_trace() -> None:
    # With centred rows A, B: tr (C_a C_b)^½ is the sum of the singular values of A Bᵀ / √((N−1)(M−1)).
    a, b = features(12, 40, 0), features(9, 40, 1)
    centred_a, centred_b = (a - a.mean(0)).numpy(), (b - b.mean(0)).numpy()
    root_trace = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum() / math.sqrt(11 * 8)
    spread = (centred_a**2).sum() / 11 + (centred_b**2).sum() / 8 - 2 * root_trace
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + spread
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_one_dimension_has_a_closed_form() -> None:
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0], [8.0]])
    deviation_a, deviation_b = math.sqrt(2), math.sqrt(3)
    assert frechet_distance(a, b) == pytest.approx((6 - 1) ** 2 + (deviation_a - deviation_b) ** 2)


def test_a_shift_costs_its_squared_length() -> None:
    a = features(100, 6, 0)
    shift = torch.arange(6, dtype=torch.float64)
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)


def test_it_is_symmetric_and_zero_for_equal_sets() -> None:
    a, b = features(50, 5, 0), features(60, 5, 1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert 0 <= frechet_distance(a, a) < 1e-6


def test_gaussian_equals_numpy() -> None:
    a = features(30, 4, 2)
    assert np.allclose(gaussian(a).mean.numpy(), a.numpy().mean(0))
    assert np.allclose(gaussian(a).covariance.numpy(), np.cov(a.numpy(), rowvar=False))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_features_give_nan(broken: float) -> None:
    a = features(10, 3, 0)
    spoiled = a.clone()
    spoiled[4, 1] = broken
    assert math.isnan(frechet_distance(spoiled, a))
    assert math.isnan(frechet_distance(a, spoiled))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(InputError, match=r"N ≥ 2, got \(1, 3\)"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))


def test_features_of_two_classifiers_are_refused() -> None:
    with pytest.raises(InputError, match="3 and 4 columns"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))


@pytest.mark.parametrize(("rows", "columns"), [(300, 32), (40, 100)])
def test_it_equals_torch_fidelity(rows: int, columns: int) -> None:
    a, b = features(rows, columns, 0), features(rows, columns, 1)
    judge = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False)
    assert frechet_distance(a, b) == pytest.approx(judge["frechet_inception_distance"], rel=1e-6)


def test_stored_statistics_stand_for_the_features() -> None:
    a, b = features(80, 6, 0), features(70, 6, 1)
    assert frechet_between(gaussian(a), gaussian(b)) == frechet_distance(a, b)


def test_a_broken_mean_of_stored_statistics_gives_nan() -> None:
    a = gaussian(features(80, 6, 0))
    assert math.isnan(frechet_between(a, Gaussian(a.mean.clone().fill_(math.nan), a.covariance)))
