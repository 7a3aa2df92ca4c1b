"""Greedy OBS on the columns of one linear: single ones (FFN channels) in blocks, groups (heads) one by one.

The plain loop updates all of W and H^-1 after every removal: O(d^2) memory traffic for one column. Here the removals
of a block stay a low-rank factor. With P = H^-1, column j removed, and

    u = P_j: / sqrt(P_jj),   v = W_:j / sqrt(P_jj),

eq. 4 and the downdate of H^-1 are W <- W - v u^T and P <- P - u u^T. P and W^T are kept side by side, S = [P | W^T],
so that both are the one update S <- S - u [u | v]^T, row j of S holds all that removing j needs, and the current S is
the stored S - U^T F, where the rows of F are the [u | v] of the block so far and U is its left part. A removal needs

- the score ||W_:j||^2 / P_jj of every column (eq. 3). P_jj falls by u_j^2, and ||W_:j||^2 changes by
  -2 u_j (W_:j . v - u_j ||v||^2 / 2), W before the removal: vector updates around one product of W with v;
- row j of S, rebuilt from the stored one and F.

A group M of several columns is a block of its own: with L L^T = P_MM the rows of F are L^-1 S_M:, and its score is the
squared norm of their right part, L^-1 W_M^T. Groups are few: all are scored anew for each that is removed.

At the end of a block S takes one matrix product, in place. Removed columns stay in S as ignored holes until enough of
them have gathered: copying a smaller S after every block would cost more than it saves.
"""

from __future__ import annotations

import math

import torch

from diff_es.pruning.hessian import IndefiniteError, cholesky

_COMPACT_BELOW = 0.85
"""Drop the holes once this share of the stored columns is left; 0.75 to 0.93 measured the same on 1152 x 4608."""


class ChannelSolver:
    """Removes columns from a weight, compensating the others: single ones by lowest score, groups as it is told.

    Args:
        weight: W, float64, (rows, columns). Not modified.
        inverse: Inverse of the damped Hessian, float64, (columns, columns). Not modified.
        block_size: Removals between two flushes, at least 1.
        candidates: Which columns `remove` may choose, bool, (columns,); by default all.
    """

    def __init__(
        self, weight: torch.Tensor, inverse: torch.Tensor, block_size: int, candidates: torch.Tensor | None = None
    ) -> None:
        self._block_size = block_size
        self._stored = torch.cat([inverse, weight.T], dim=1)  # S = [P | W^T], (stored, stored + rows)
        self._columns = torch.arange(inverse.shape[0], device=inverse.device)  # what each row of S is, (stored,)
        self._alive = torch.ones_like(self._columns, dtype=torch.bool)
        self._candidates = self._alive.clone() if candidates is None else candidates.to(self._columns.device)
        self._removed: list[torch.Tensor] = []

    def remove(self, count: int) -> None:
        """Remove the next `count` columns.

        Args:
            count: How many, at most the columns that are left.

        Raises:
            IndefiniteError: If rounding has made the inverse Hessian indefinite.
        """
        while count > 0:
            size = min(self._block_size, count)
            self._remove_block(size)
            count -= size

    def order(self) -> torch.Tensor:
        """Columns that `remove` has removed, in the order they left, int64, (removed,)."""
        return torch.cat(self._removed) if self._removed else self._columns[:0]

    def kept(self) -> torch.Tensor:
        """Columns that are left, ascending, int64, (kept,)."""
        return self._columns[self._alive]

    def weight(self) -> torch.Tensor:
        """Compensated weight of the columns that are left, float64, (rows, kept)."""
        return self._stored[self._alive, len(self._columns) :].T.contiguous()

    def group_scores(self, columns: torch.Tensor) -> torch.Tensor:
        """Score groups of columns that are all left (eq. 3).

        Args:
            columns: int64, (groups, group_size).

        Returns:
            float64, (groups,).

        Raises:
            IndefiniteError: If rounding has made the inverse Hessian indefinite.
        """
        at = torch.searchsorted(self._columns, columns)
        roots = cholesky(self._stored[at[:, :, None], at[:, None, :]])
        weights = self._stored[at, len(self._columns) :]  # W_M^T, (groups, group_size, rows)
        whitened: torch.Tensor = torch.linalg.solve_triangular(roots, weights, upper=False)
        return whitened.square().sum(dim=(1, 2))

    def remove_group(self, columns: torch.Tensor) -> None:
        """Remove a group of columns that are all left; with L L^T = P_MM the update is one product.

        Args:
            columns: int64, (group_size,).
        """
        width = len(self._columns)
        at = torch.searchsorted(self._columns, columns)
        rows = self._stored[at]
        factor = torch.linalg.solve_triangular(cholesky(rows[:, at]), rows, upper=False)  # L^-1 [P | W^T]_M:
        self._apply(factor, at, width)

    def _remove_block(self, size: int) -> None:
        width = len(self._columns)
        weight_t = self._stored[:, width:]  # W^T, (stored, rows)
        factor = self._stored.new_empty(size, self._stored.shape[1])  # F, (size, stored + rows)
        # Recomputed from S at every block, so that rounding of the running updates does not pile up.
        open_ = self._alive & self._candidates
        energy = weight_t.square().sum(dim=1).masked_fill_(~open_, math.inf)  # ||W_:j||^2, (stored,)
        pivots = self._stored.diagonal().masked_fill(~self._alive, 1.0)  # P_jj, (stored,)
        scores = torch.empty_like(energy)
        chosen = []
        for step in range(size):
            # The choice stays a tensor, (1,): as a number it would make the host wait for a GPU at every removal.
            j = torch.div(energy, pivots, out=scores).argmin(dim=0, keepdim=True)  # eq. 3; the first of equals
            chosen.append(j)
            past = factor[:step]
            own = past.index_select(1, j).flatten()  # u_j of the block's removals so far
            row = torch.addmv(
                self._stored.index_select(0, j).flatten(), past.T, own, alpha=-1
            )  # row j of the current S
            torch.mul(row, pivots.index_select(0, j).rsqrt(), out=factor[step])
            u, v = factor[step, :width], factor[step, width:]
            mix = factor[: step + 1, width:].mv(v)  # V v; its last entry is ||v||^2
            mix[-1] *= 0.5
            overlap = weight_t.mv(v).addmv_(factor[: step + 1, :width].T, mix, alpha=-1)  # W_:j . v - u_j ||v||^2 / 2
            energy.addcmul_(u, overlap, value=-2).index_fill_(0, j, math.inf)
            pivots.addcmul_(u, u, value=-1).index_fill_(0, j, 1.0)
        if not bool((pivots > 0).all()):  # NaN, where one below zero was chosen within the block
            raise IndefiniteError("the inverse Hessian is no longer positive definite")
        positions = torch.cat(chosen)
        self._removed.append(self._columns[positions])
        self._apply(factor, positions, width)

    def _apply(self, factor: torch.Tensor, gone: torch.Tensor, width: int) -> None:
        """Apply the factor of removed columns to S, and drop the holes when there are many."""
        self._stored.addmm_(factor[:, :width].T, factor, alpha=-1)
        self._alive[gone] = False
        left = self._alive.nonzero().flatten()
        if len(left) < _COMPACT_BELOW * width:
            rows = torch.arange(width, self._stored.shape[1], device=left.device)
            self._stored = self._stored.index_select(0, left).index_select(1, torch.cat([left, rows]))
            self._columns, self._alive = self._columns[left], self._alive[left]
            self._candidates = self._candidates[left]
