"""From scores to a removal order, and from an order to what a level keeps."""

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


def kept_groups(order: torch.Tensor, num_groups: int, num_removed: int) -> torch.Tensor:
    """Groups that remain after the first `num_removed` groups of `order` have left.

    Args:
        order: Removal order, int64, shape (>= num_removed,).
        num_groups: Groups of the layer.
        num_removed: How many have left, 0 … len(order).

    Returns:
        Ascending group indices, int64, shape (num_groups - num_removed,), on the CPU.

    Raises:
        InputError: If `order` is shorter than `num_removed`.
    """
    if not 0 <= num_removed <= len(order):
        raise InputError(f"num_removed is {num_removed}; the removal order holds {len(order)} groups, give 0 to that")
    kept = torch.ones(num_groups, dtype=torch.bool)
    kept[order[:num_removed].cpu()] = False
    return kept.nonzero().flatten()


def group_columns(groups: torch.Tensor, group_size: int) -> torch.Tensor:
    """Columns of the given groups: group g owns columns g * group_size … (g + 1) * group_size - 1.

    Args:
        groups: Group indices, int64, shape (n,).
        group_size: Columns per group, at least 1.

    Returns:
        Column indices in the order of `groups`, int64, shape (n * group_size,).
    """
    offsets = torch.arange(group_size, device=groups.device)
    return (groups[:, None] * group_size + offsets).flatten()
