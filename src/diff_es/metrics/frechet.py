"""The Fréchet distance between two sets of feature vectors, each seen as a Gaussian.

On the pool3 features of Inception-v3 it is known as FID. Diff-ES computes it on the features of other classifiers too
and then never calls it FID: values on different features cannot be compared.
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
    """Return the Fréchet distance between the Gaussians of two sets of features; see `frechet_between`.

    Args:
        features_a: (N, D), N ≥ 2.
        features_b: (M, D), M ≥ 2.

    Returns:
        The distance, ≥ 0; NaN if any feature is not finite.

    Raises:
        InputError: fewer than two rows, or different D.
    """
    return frechet_between(gaussian(features_a), gaussian(features_b))


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    """Return ‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the square root is the sum of the square roots of the eigenvalues of C_a C_b, which are those of the
    symmetric S C_b S with S = C_a^½. The symmetric form keeps them real: with N = 64 and D = 2048 it was measured to be
    off the exact trace of 560 by 7e-6, the eigenvalues of C_a C_b itself (torch-fidelity's way) by 2e-4.

    Args:
        a: One set, (D,) and (D, D).
        b: The other, of the same D; also one that was stored, such as the statistics of a reference set.

    Returns:
        The distance, ≥ 0; NaN if any entry is not finite.

    Raises:
        InputError: different D.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"The features have {a.mean.shape[0]} and {b.mean.shape[0]} columns; use one classifier.")
    if not all(part.isfinite().all() for part in (a.mean, a.covariance, b.mean, b.covariance)):
        return float("nan")
    values, vectors = torch.linalg.eigh(a.covariance)
    # Rounding leaves small negative eigenvalues where N < D.
    factor = vectors * values.clamp(min=0).sqrt()
    root_trace = torch.linalg.eigvalsh(factor.T @ b.covariance @ factor).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * root_trace
    distance = (a.mean - b.mean).square().sum() + spread
    # Rounding can leave −1e-13 for equal sets; the distance itself cannot be negative.
    return max(float(distance), 0.0)
