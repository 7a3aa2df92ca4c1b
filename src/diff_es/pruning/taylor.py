"""First-order Taylor importance of groups (Diff-Pruning, arXiv 2305.10924), from that of single rows and columns.

Removing a weight θ changes the loss by θ times its gradient, to first order. A group's importance is the sum of the
absolute values over all the weights that leave with it: the rows that produce it, with their biases, and the columns
of the output projection that consume it. The least important goes first; nothing is compensated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diff_es.errors import InputError
from diff_es.pruning.ranking import ascending_order

if TYPE_CHECKING:
    from collections.abc import Sequence


def group_importance(
    rows: Sequence[torch.Tensor], columns: torch.Tensor, num_groups: int, halves: int = 1
) -> torch.Tensor:
    """Sum the importance of rows and columns over each group.

    Args:
        rows: For each input linear (q, k and v, or the first FFN linear) the importance of its rows, each
            (halves * num_groups * rows per group,), >= 0.
        columns: Importance of the output projection's columns, (num_groups * columns per group,), >= 0.
        num_groups: Number of heads or channels, at least 1.
        halves: Stacked copies of the groups in the rows: 2 for a gated unit such as GEGLU, where channel c owns the
            rows c and num_groups + c.

    Returns:
        Importance, float64, shape (num_groups,).

    Raises:
        InputError: If a length is no multiple of the number of groups.
    """
    produced = [_grouped(vector, num_groups, halves) for vector in rows]
    return torch.stack([*produced, _grouped(columns, num_groups, 1)]).sum(dim=0)


def removal_order(importance: torch.Tensor) -> torch.Tensor:
    """Order in which groups leave: least important first, ties by lowest index.

    Args:
        importance: One value per group, shape (num_groups,).

    Returns:
        Group indices, int64, shape (num_groups,), on the CPU.

    Raises:
        InputError: If a value is NaN or infinite.
    """
    return ascending_order(importance)


def _grouped(vector: torch.Tensor, num_groups: int, halves: int) -> torch.Tensor:
    """(halves * num_groups * n,) -> (num_groups,)."""
    if vector.ndim != 1 or num_groups < 1 or len(vector) % (halves * num_groups):
        raise InputError(
            f"importance of shape {tuple(vector.shape)} for {num_groups} groups in {halves} halves;"
            " give one value per row or column"
        )
    return vector.detach().double().cpu().view(halves, num_groups, -1).sum(dim=(0, 2))
