"""LayerDrop (Appendix D of arXiv 2603.05105, eq. 5): blocks that change their input least are dropped first."""

from __future__ import annotations

import torch

from diff_es.pruning.ranking import ascending_order


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
