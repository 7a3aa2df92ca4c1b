"""Magnitude pruning: structural Wanda with every input norm set to 1, so that it needs no calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.pruning import wanda

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def head_scores(weights: Sequence[torch.Tensor], num_heads: int) -> torch.Tensor:
    """Score of every head: the mean over its rows in q, k and v of `sum_j |W_ij|`.

    Args:
        weights: q, k and v projections, each (num_heads * head_dim, inputs).
        num_heads: Number of heads, at least 1.

    Returns:
        Scores, float64, shape (num_heads,).

    Raises:
        InputError: If shapes do not fit together.
    """
    return wanda.head_scores(weights, [_ones(weight) for weight in weights], num_heads)


def channel_scores(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Score of every FFN channel: the mean over j of `|W_cj|` in its row (both halves of a gated unit averaged).

    Args:
        weight: First linear, (num_channels, inputs), or (2 * num_channels, inputs) for a gated unit.
        num_channels: Number of channels, at least 1.

    Returns:
        Scores, float64, shape (num_channels,).

    Raises:
        InputError: If shapes do not fit together.
    """
    return wanda.channel_scores(weight, _ones(weight), num_channels)


def _ones(weight: torch.Tensor) -> torch.Tensor:
    return weight.new_ones(weight.shape[1:])
