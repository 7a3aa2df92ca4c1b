"""First-order Taylor importance of groups (Diff-Pruning, arXiv 2305.10924), from that of single rows and columns.

Removing a weight θ changes the loss by θ times its gradient, to first order. A group's importance is the sum of the
absolute values over all the weights that leave with it: the rows that produce it, with their biases, and the columns
of the output projection that consume it. The least important goes first; nothing is compensated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diff_es.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def group_importance(owned: Sequence[torch.Tensor], num_groups: int) -> torch.Tensor:
    """Sum the importance of rows and columns over each group.

    Args:
        owned: Importance of the rows and columns that groups own, span by span (q, k and v; the halves of a gated
            first linear; the output projection's columns), each (num_groups * rows per group,), >= 0.
        num_groups: Number of heads or channels, at least 1.

    Returns:
        Importance, float64, shape (num_groups,).

    Raises:
        InputError: If a length is no multiple of the number of groups.
    """
    return torch.stack([_grouped(vector, num_groups) for vector in owned]).sum(dim=0)


def _grouped(vector: torch.Tensor, num_groups: int) -> torch.Tensor:
    """(num_groups * n,) -> (num_groups,)."""
    if vector.ndim != 1 or num_groups < 1 or len(vector) % num_groups:
        raise InputError(
            f"importance of shape {tuple(vector.shape)} for {num_groups} groups; give one value per row or column"
        )
    return vector.detach().double().cpu().view(num_groups, -1).sum(dim=1)
