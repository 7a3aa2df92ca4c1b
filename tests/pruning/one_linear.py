"""OBS on the groups of one linear, all of one size: what most layers are, and `benchmarks/obs_solver.py` times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diff_es.pruning import ObsConfig, ObsFamily, ObsOutput, obs_trajectory


@dataclass(frozen=True)
class Level:
    """Kept groups, ascending, on the CPU, and the weight of their columns."""

    kept: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class Solved:
    """Groups in the order they left, snapshots, and the damping that was used."""

    order: torch.Tensor
    levels: tuple[Level, ...]
    damping: float


def solve(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    group_size: int,
    removals: Sequence[int],
    config: ObsConfig,
    name: str = "layer",
) -> Solved:
    """Group g owns columns g * group_size … (g + 1) * group_size - 1."""
    count = weight.shape[1] // group_size
    columns = group_columns(torch.arange(count, device=hessian.device), group_size).view(count, group_size)
    family = ObsFamily((columns,), removals)
    found = obs_trajectory([ObsOutput(weight, hessian)], [family], config=config, name=name)
    (order,) = found.orders
    levels = []
    for removed, (thin,) in zip(removals, found.levels, strict=True):
        stays = torch.ones(count, dtype=torch.bool)
        stays[order[:removed]] = False
        levels.append(Level(stays.nonzero().flatten(), thin))
    return Solved(order, tuple(levels), found.damping)


def group_columns(groups: torch.Tensor, group_size: int) -> torch.Tensor:
    """Columns of the given groups, in their order."""
    return (groups[:, None] * group_size + torch.arange(group_size, device=groups.device)).flatten()
