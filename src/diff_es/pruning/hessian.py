"""The damped Hessian of a layer's inputs, its inverse, and the centred form that gives the least squares an intercept.

A Hessian here is any positive multiple of the inputs' second moment E[x x^T]: damping is relative, so neither the
removal order nor the compensated weights depend on that factor.
"""

from __future__ import annotations

import torch

from diff_es.errors import InputError


class IndefiniteError(ArithmeticError):
    """A matrix that must be positive definite is not, by its nature or by rounding; more damping helps."""


def dead_columns(hessian: torch.Tensor) -> torch.Tensor:
    """Inputs that were zero in every calibration sample, bool, shape (columns,).

    Args:
        hessian: Second moment of the inputs, (columns, columns).
    """
    return hessian.diagonal() == 0


def damped_hessian(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """`H + damping * mean(diag H) * I` in float64; the mean runs over the columns that are not dead.

    Args:
        hessian: Symmetric second moment, (columns, columns), with at least one column that is not dead.
        damping: Share of the mean diagonal, > 0.

    Returns:
        A new float64 matrix, (columns, columns).
    """
    diagonal = hessian.diagonal().double()
    damped = hessian.to(torch.float64, copy=True)
    damped.diagonal().add_(damping * diagonal[~dead_columns(hessian)].mean())
    return damped


def damped_inverse(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Inverse of `damped_hessian` by Cholesky factorisation.

    Args:
        hessian: Symmetric second moment, (columns, columns).
        damping: Share of the mean diagonal, > 0.

    Returns:
        float64 matrix, (columns, columns).

    Raises:
        IndefiniteError: If the damped Hessian is not positive definite.
    """
    return torch.cholesky_inverse(cholesky(damped_hessian(hessian, damping)))


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factor of one matrix or a batch of them.

    Args:
        matrix: Symmetric, (..., n, n).

    Returns:
        Lower triangular matrix of the same shape.

    Raises:
        IndefiniteError: If a matrix is not positive definite.
    """
    root: torch.Tensor
    root, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()):
        raise IndefiniteError("not positive definite")
    return root


def centred_hessian(second_moment: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Covariance `E[x x^T] - E[x] E[x]^T`: the Hessian of a least squares whose bias is free to move.

    Give it to the solver in place of the second moment, then correct the bias with `compensate_bias`. A column whose
    variance is below the rounding of `second_moment`'s dtype is constant: its row and column become zero, so that the
    solver takes it as dead (the bias carries all of it).

    Args:
        second_moment: E[x x^T], already divided by the number of samples, (columns, columns), in the dtype in which it
            was accumulated.
        mean: E[x] over the same samples, (columns,).

    Returns:
        float64 matrix, (columns, columns).

    Raises:
        InputError: If the shapes do not fit, or a variance is clearly negative (sums instead of means were given).
    """
    if second_moment.shape != (mean.numel(), mean.numel()):
        raise InputError(
            f"second_moment {tuple(second_moment.shape)} with mean {tuple(mean.shape)}; give (d, d) and (d,)"
        )
    mu = mean.detach().to(second_moment.device, torch.float64).flatten()
    raw = second_moment.detach().double()
    covariance = raw - torch.outer(mu, mu)
    rounding = 64 * torch.finfo(second_moment.dtype).eps * raw.diagonal()
    if bool((covariance.diagonal() < -rounding).any()):
        raise InputError(
            "second_moment minus mean mean^T has a negative diagonal; divide both by the same sample count"
        )
    constant = covariance.diagonal() <= rounding
    return covariance.masked_fill_(constant[:, None] | constant[None, :], 0.0)


def compensate_bias(
    weight: torch.Tensor,
    mean: torch.Tensor,
    kept_columns: torch.Tensor,
    thin_weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Bias that keeps the layer's mean output: `b' = b + W mu - W'_K mu_K`.

    With weights solved from `centred_hessian` this is the exact least-squares intercept.

    Args:
        weight: Dense weight W, (rows, columns).
        mean: Mean input mu, (columns,).
        kept_columns: Kept column indices K, ascending, (kept,).
        thin_weight: Compensated weight W'_K, (rows, kept).
        bias: Dense bias b, (rows,), or None where the layer has none.

    Returns:
        New bias, float64, (rows,).
    """
    w, thin = weight.detach().double(), thin_weight.detach().double()
    mu = mean.detach().to(w.device, torch.float64)
    shift = w @ mu - thin.to(w.device) @ mu[kept_columns.to(w.device)]
    return shift if bias is None else bias.detach().to(w.device, torch.float64) + shift
