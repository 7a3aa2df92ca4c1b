"""Choose one level per layer so that the summed error is least within a cost limit: exact dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diff_es.errors import InputError
from diff_es.schedule import Levels

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Frontier:
    """The best choices for every cost limit: layers are added one by one, dominated partial choices are dropped.

    After all layers the frontier holds, in order of rising cost, every total cost at which the least possible error
    falls; one construction answers all limits.
    """

    def __init__(self, costs: Sequence[Sequence[int]], errors: Sequence[Sequence[float]]) -> None:
        """Build the frontier.

        Args:
            costs: For each layer, the cost of each level (MACs that are left), ≥ 0.
            errors: For each layer, the error of each level, finite; any order, need not be monotone.

        Raises:
            InputError: ragged or empty tables, or an error that is NaN or infinite.
        """
        if not costs or [len(row) for row in costs] != [len(row) for row in errors]:
            raise InputError("costs and errors need the same levels for each of at least one layer.")
        self._choices: list[tuple[IntArray, IntArray]] = []
        cost: IntArray = np.zeros(1, np.int64)
        error: FloatArray = np.zeros(1, np.float64)
        for layer, (layer_costs, layer_errors) in enumerate(zip(costs, errors, strict=True)):
            if not np.isfinite(layer_errors).all():
                raise InputError(f"The errors of layer {layer} are not finite: {list(layer_errors)}.")
            cost, error = self._add(cost, error, np.asarray(layer_costs, np.int64), np.asarray(layer_errors, float))
        self.cost, self.error = cost, error

    def best(self, limit: int) -> Levels:
        """Return the levels of least total error whose total cost is at most `limit`.

        Raises:
            InputError: even the cheapest choice costs more.
        """
        state = int(np.searchsorted(self.cost, limit, side="right")) - 1
        if state < 0:
            raise InputError(f"limit={limit} is below the cheapest choice, {int(self.cost[0])}.")
        levels = []
        for parents, chosen in reversed(self._choices):
            levels.append(int(chosen[state]))
            state = int(parents[state])
        return tuple(reversed(levels))

    def _add(
        self, cost: IntArray, error: FloatArray, layer_costs: IntArray, layer_errors: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Cross every partial choice with every level of one more layer and keep the undominated ones."""
        levels = len(layer_costs)
        costs = (cost[:, None] + layer_costs).ravel()
        errors = (error[:, None] + layer_errors).ravel()
        order = np.lexsort((errors, costs))
        falling = np.minimum.accumulate(errors[order])
        # Kept: strictly better than everything that costs no more.
        kept = order[np.concatenate(([True], errors[order][1:] < falling[:-1]))]
        self._choices.append((kept // levels, kept % levels))
        return costs[kept], errors[kept]
