"""The plain OBS loop: the oracle of the blocked solver, and what `benchmarks/obs_solver.py` compares it with.

Deliberately ordinary: score every column, remove the best, update all of W and all of H^-1, repeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class PlainObs:
    """The loop, stopped between two removals."""

    def __init__(self, weight: torch.Tensor, hessian: torch.Tensor, damping: float) -> None:
        """Invert H; arguments as for `plain_obs`."""
        self.weight = weight.double().clone()
        damped = hessian.double().clone()
        damped.diagonal().add_(damping * damped.diagonal().mean())
        self._inverse = torch.linalg.inv(damped)
        self.alive = torch.ones_like(damped.diagonal(), dtype=torch.bool)

    def remove(self, *, in_place: bool = False) -> int:
        """Remove the best column, and return which it was; every removal costs the same."""
        w, inverse = self.weight, self._inverse
        scores = (w**2).sum(dim=0) / inverse.diagonal()
        scores[~self.alive] = torch.inf
        j = int(scores.argmin())
        row, pivot = inverse[j].clone(), inverse[j, j].clone()
        if in_place:
            w.addr_(w[:, j].clone(), row, alpha=-1 / float(pivot))
            inverse.addr_(row, row, alpha=-1 / float(pivot))
        else:
            w -= torch.outer(w[:, j], row) / pivot
            inverse -= torch.outer(row, row) / pivot
        w[:, j] = 0.0
        inverse[j, :] = 0.0
        inverse[:, j] = 0.0
        inverse[j, j] = 1.0  # keeps the score of a removed column finite until it is masked
        self.alive[j] = False
        return j


def plain_obs(
    weight: torch.Tensor, hessian: torch.Tensor, removals: Sequence[int], damping: float, *, in_place: bool = False
) -> tuple[list[int], list[torch.Tensor], list[torch.Tensor]]:
    """Column-by-column OBS in float64.

    Args:
        weight: (rows, columns).
        hessian: (columns, columns), no zero on the diagonal.
        removals: Cumulative number of columns removed at each level.
        damping: Share of the mean diagonal.
        in_place: Write the two rank-one updates without temporaries. The same mathematics; how much it saves depends on
            the memory allocator, so the benchmark times both.

    Returns:
        Removal order, and per level the kept columns, on the CPU, and the weight, (rows, columns) with removed columns
        zero.
    """
    loop = PlainObs(weight, hessian, damping)
    order: list[int] = []
    kept: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    for target in removals:
        while len(order) < target:
            order.append(loop.remove(in_place=in_place))
        kept.append(loop.alive.nonzero().flatten().cpu())
        weights.append(loop.weight.clone())
    return order, kept, weights
