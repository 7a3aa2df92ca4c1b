"""The Fréchet distance between two sets of feature vectors, each seen as a Gaussian.

On the features of Inception-v3 it is known as FID. Diff-ES computes it on the features of other classifiers too and
then never calls it FID: values on different features cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diff_es.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of a set of feature vectors.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, normalised by N − 1.
    """

    mean: Tensor
    covariance: Tensor


def gaussian(features: Tensor) -> Gaussian:
    """Return mean and covariance of the features, in float64 on the CPU.

    Args:
        features: (N, D), N ≥ 2.

    Raises:
        InputError: not a matrix, or fewer than two rows (a covariance needs two).
    """
    if features.ndim != 2 or features.shape[0] < 2:
        raise InputError(
            f"features must have shape (N, D) with N ≥ 2, got {tuple(features.shape)}: a covariance needs two images."
        )
    exact = features.detach().to("cpu", torch.float64)
    mean = exact.mean(dim=0)
    centred = exact - mean
    return Gaussian(mean, centred.T @ centred / (exact.shape[0] - 1))


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return ‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the square root is the sum of the square roots of the eigenvalues of C_a C_b. They are real and not
    negative in exact arithmetic, also for N < D; rounding leaves small negative or complex ones, whose square roots
    then have next to no real part.

    Args:
        features_a: (N, D), N ≥ 2.
        features_b: (M, D), M ≥ 2.

    Returns:
        The distance, ≥ 0; NaN if any feature is not finite.

    Raises:
        InputError: fewer than two rows, or different D.
    """
    a, b = gaussian(features_a), gaussian(features_b)
    if a.mean.shape != b.mean.shape:
        raise InputError(f"The features have {a.mean.shape[0]} and {b.mean.shape[0]} columns; use one classifier.")
    if not (a.covariance.isfinite().all() and b.covariance.isfinite().all()):
        return float("nan")
    root_trace = torch.linalg.eigvals(a.covariance @ b.covariance).sqrt().real.sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * root_trace
    distance = (a.mean - b.mean).square().sum() + spread
    # Rounding can leave −1e-13 for equal sets; the distance itself cannot be negative.
    return max(float(distance), 0.0)
