"""Greedy OBS for groups of several columns (attention heads).

There are few heads, so W and H^-1 are updated after every removal; scoring is batched over all heads. With
`L L^T = (H^-1)_MM` every quantity of eq. 3 and 4 is a triangular solve:

    Z = L^-1 W_M^T,   Y = L^-1 (H^-1)_M:,   score = ||Z||^2,   W <- W - Z^T Y,   H^-1 <- H^-1 - Y^T Y
"""

from __future__ import annotations

import torch

from diff_es.pruning.hessian import cholesky


class GroupSolver:
    """Removes groups of columns from a weight, lowest score first, compensating the others.

    Args:
        weight: W, float64, (rows, columns). Not modified.
        inverse: Inverse of the damped Hessian, float64, (columns, columns). Not modified.
        group_size: Columns per group, a divisor of columns.
    """

    def __init__(self, weight: torch.Tensor, inverse: torch.Tensor, group_size: int) -> None:
        num_groups = weight.shape[1] // group_size
        self._weight_t = weight.T.reshape(num_groups, group_size, -1)  # (groups, group_size, rows)
        self._inverse = inverse.view(num_groups, group_size, num_groups, group_size)
        self._groups = torch.arange(num_groups, device=weight.device)
        self._removed: list[torch.Tensor] = []

    def remove(self, count: int) -> None:
        """Remove the next `count` groups.

        Args:
            count: How many, at most the groups that are left.

        Raises:
            IndefiniteError: If rounding has made the inverse Hessian indefinite.
        """
        for _ in range(count):
            self._remove_one()

    def order(self) -> torch.Tensor:
        """Removed groups in the order they left, int64, (removed,)."""
        return torch.cat(self._removed) if self._removed else self._groups[:0]

    def kept(self) -> torch.Tensor:
        """Groups that are left, ascending, int64, (kept,)."""
        return self._groups

    def weight(self) -> torch.Tensor:
        """Compensated weight of the groups that are left, float64, (rows, kept * group_size)."""
        return self._weight_t.flatten(0, 1).T.contiguous()

    def _remove_one(self) -> None:
        count, size, rows = self._weight_t.shape
        blocks = self._inverse.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (H^-1)_MM of every group, (groups, s, s)
        roots = cholesky(blocks)
        whitened = torch.linalg.solve_triangular(
            roots, self._weight_t, upper=False
        )  # Z of every group, (groups, s, rows)
        best = torch.argmin(whitened.square().sum(dim=(1, 2)), dim=0, keepdim=True)  # eq. 3; the first of equals
        root, z = roots[best].squeeze(0), whitened[best].squeeze(0)
        y = torch.linalg.solve_triangular(root, self._inverse[best].reshape(size, count * size), upper=False)
        keep = (torch.arange(count, device=best.device) != best).nonzero().flatten()
        y = y.view(size, count, size)[:, keep].reshape(size, -1)  # columns of the removed group would become zero
        self._weight_t = self._weight_t[keep] - (y.T @ z).view(len(keep), size, rows)
        downdate = (y.T @ y).view(len(keep), size, len(keep), size)
        self._inverse = self._inverse[keep][:, :, keep] - downdate
        self._removed.append(self._groups[best])
        self._groups = self._groups[keep]
