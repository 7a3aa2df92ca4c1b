"""From scores to a removal order."""

from __future__ import annotations

import torch

from diff_es.errors import InputError


def ascending_order(scores: torch.Tensor) -> torch.Tensor:
    """Group indices from the lowest score to the highest; equal scores keep their index order.

    Args:
        scores: One score per group, shape (num_groups,).

    Returns:
        Permutation of the group indices, int64, shape (num_groups,), on the CPU.

    Raises:
        InputError: If `scores` is not one-dimensional or holds NaN or infinity.
    """
    if scores.ndim != 1:
        raise InputError(f"scores has shape {tuple(scores.shape)}; give one score per group, shape (num_groups,)")
    broken = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"scores of groups {broken[:8]} are NaN or infinite; check the weights and the calibration inputs"
        )
    return torch.argsort(scores.detach().cpu(), stable=True)
