"""LayerDrop (Appendix D of arXiv 2603.05105, eq. 5): blocks that change their input least are dropped first."""

from __future__ import annotations

import torch

from diff_es.errors import InputError
from diff_es.pruning.ranking import ascending_order

_SMALLEST_NORM = 1e-8
"""Norms are clamped here, as torch's cosine similarity does: a zero sample has similarity 0, not NaN."""


def block_similarity(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Mean cosine similarity between a block's input and output (eq. 5), each sample flattened to one vector.

    To average over several batches, weight each batch's result by its number of samples.

    Args:
        inputs: What enters the block, (samples, ...).
        outputs: What leaves it, same shape.

    Returns:
        Scalar in [-1, 1], float64; 1 means that the block changes nothing but the scale.

    Raises:
        InputError: If the shapes differ, there is no sample, or a value is NaN or infinite.
    """
    if inputs.shape != outputs.shape or inputs.ndim < 2 or inputs.shape[0] == 0:
        raise InputError(
            f"inputs {tuple(inputs.shape)} and outputs {tuple(outputs.shape)} cannot be compared;"
            " give two tensors of one shape (samples, ...)"
        )
    x, y = inputs.detach().double().flatten(1), outputs.detach().double().flatten(1)  # (samples, values)
    norms = x.norm(dim=1).clamp_min(_SMALLEST_NORM) * y.norm(dim=1).clamp_min(_SMALLEST_NORM)
    similarity: torch.Tensor = ((x * y).sum(dim=1) / norms).mean()
    if not torch.isfinite(similarity):
        raise InputError("inputs or outputs of the block hold NaN or infinity; run the dense model in a wider dtype")
    return similarity


def removal_order(similarities: torch.Tensor) -> torch.Tensor:
    """Order in which blocks are dropped: largest mean similarity first, ties by lowest index.

    Args:
        similarities: Mean similarity of every block, shape (num_blocks,).

    Returns:
        Block indices, int64, shape (num_blocks,), on the CPU.

    Raises:
        InputError: If a similarity is NaN or infinite.
    """
    return ascending_order(-similarities)
