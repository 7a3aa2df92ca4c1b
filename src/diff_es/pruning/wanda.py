"""Structural Wanda (Appendix D of arXiv 2603.05105, eq. 6-8): weight magnitude times input norm, no compensation.

A group is scored by the *rows* that produce it: a head by its rows of q, k and v, an FFN channel by its row of the
first linear. The element-wise score is `S_ij = |W_ij| * ||X_:,j||` (eq. 6). The lowest score goes first. With norms of
1 this is magnitude pruning, which needs no calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diff_es.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def head_scores(weights: Sequence[torch.Tensor], input_norms: Sequence[torch.Tensor], num_heads: int) -> torch.Tensor:
    """Score of every head (eq. 7): the mean over its rows in all `weights` of `sum_j |W_ij| * ||X_:,j||`.

    Args:
        weights: q, k and v projections, each (num_heads * head_dim, inputs). Their inputs may differ (cross-attention),
            and so may their head_dim; head h owns the h-th of `num_heads` equal slices of the rows.
        input_norms: `||X_:,j||` of each projection's inputs over all calibration tokens, each (inputs,), >= 0.
        num_heads: Number of heads, at least 1.

    Returns:
        Scores, float64, shape (num_heads,).

    Raises:
        InputError: If shapes do not fit together.
    """
    if len(weights) != len(input_norms) or not weights:
        raise InputError(f"{len(weights)} weights with {len(input_norms)} input_norms; give one norm vector per weight")
    rows = [
        _split_rows(_row_scores(weight, norms), num_heads) for weight, norms in zip(weights, input_norms, strict=True)
    ]
    return torch.cat(rows, dim=1).mean(dim=1)  # (num_heads, rows of one head in q, k and v) -> (num_heads,)


def channel_scores(weight: torch.Tensor, input_norms: torch.Tensor) -> torch.Tensor:
    """Score of every FFN channel (eq. 8): the mean over j of `|W_cj| * ||X_:,j||` in its row of the first linear.

    Args:
        weight: First linear, or one half of a gated one, (num_channels, inputs).
        input_norms: `||X_:,j||` over all calibration tokens, (inputs,), >= 0.

    Returns:
        Scores, float64, shape (num_channels,).

    Raises:
        InputError: If shapes do not fit together.
    """
    return _row_scores(weight, input_norms) / weight.shape[1]


def _row_scores(weight: torch.Tensor, input_norms: torch.Tensor) -> torch.Tensor:
    """`sum_j |W_ij| * ||X_:,j||` (eq. 6 summed over j), float64, shape (rows,)."""
    if weight.ndim != 2 or input_norms.shape != weight.shape[1:]:
        raise InputError(
            f"weight of shape {tuple(weight.shape)} with input_norms of shape {tuple(input_norms.shape)};"
            " give (rows, inputs) and (inputs,)"
        )
    return weight.detach().double().abs() @ input_norms.detach().to(weight.device, torch.float64)


def _split_rows(row_scores: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(rows,) -> (num_heads, rows of one head)."""
    if num_heads < 1 or row_scores.shape[0] % num_heads:
        raise InputError(f"num_heads is {num_heads}; give a divisor of the projection's {row_scores.shape[0]} rows")
    return row_scores.view(num_heads, -1)
