"""What a pruner finds of one layer: nested snapshots over its levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.denoisers import Layer


@dataclass(frozen=True)
class LayerTrajectory:
    """Nested snapshots of one layer.

    Attributes:
        order: All groups in the order in which they leave, int64; numbered through the layer's families.
        outputs: For each level ≥ 1, the compensated parameters of the output projections by path ("….to_out.0.weight",
            kept columns only); empty without compensation.
    """

    order: Tensor
    outputs: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


def merged_order(layer: Layer, orders: Sequence[Tensor], num_levels: int) -> Tensor:
    """Merge the orders of a layer's families so that each level removes its share of every family.

    Args:
        layer: The layer.
        orders: For each family, its groups in the order in which they leave, numbered within the family.
        num_levels: H.

    Returns:
        All groups, numbered through the families, int64: those of level 1 first, family by family, then level 2, …
    """
    steps = [list(pairwise(family.removed(num_levels))) for family in layer.families]
    parts = [
        order[slice(*steps[index][level])] + first
        for level in range(num_levels)
        for index, (order, first) in enumerate(zip(orders, layer.firsts, strict=True))
    ]
    return torch.cat(parts)
