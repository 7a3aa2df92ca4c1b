"""Greedy OBS where removals are coupled: a group that feeds several linears, or groups of different size in one linear.

In a joint attention a head feeds the output projections of image and text; in a parallel block the heads and the FFN
channels are columns of one linear. The loss is the summed squared error of all outputs o,

    Σ_o s_o tr(ΔW_o H_o ΔW_o^T),

with H_o the mean second moment of the output's inputs and s_o their number. The outputs share no weights, so eq. 2-4
hold for each; a removal is scored by the sum of their losses, and compensated in each. Groups of different size are
not compared with each other: a level removes its share of every family (heads first), each family greedily, and all
of them are compensated by whatever is left. After any number of removals each weight equals the least-squares solution
on its kept columns, as in `obs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diff_es.pruning.hessian import damped_inverse, dead_columns
from diff_es.pruning.obs import check_values, rising_damping
from diff_es.pruning.obs_channels import ChannelSolver

if TYPE_CHECKING:
    from diff_es.pruning.obs import ObsConfig


@dataclass(frozen=True)
class CoupledOutput:
    """One linear that groups feed.

    Attributes:
        weight: W, (rows, columns), any float dtype.
        hessian: Mean second moment of its inputs, (columns, columns).
        share: Its weight s_o in the loss, > 0.
    """

    weight: torch.Tensor
    hessian: torch.Tensor
    share: float


@dataclass(frozen=True)
class CoupledFamily:
    """Groups of one size.

    Attributes:
        columns: For each output the columns of every group, int64, (groups, group_size); None where they feed it not.
        removals: Cumulative number of groups removed at each level, from 0.
    """

    columns: tuple[torch.Tensor | None, ...]
    removals: Sequence[int]


@dataclass(frozen=True)
class CoupledTrajectory:
    """Nested snapshots.

    Attributes:
        orders: For each family its groups in the order they left, int64, on the CPU.
        levels: For each level the compensated weight of every output, float64, (rows, kept columns in their order).
        damping: The damping that was used, as a share of the mean diagonal.
    """

    orders: tuple[torch.Tensor, ...]
    levels: tuple[tuple[torch.Tensor, ...], ...]
    damping: float


def coupled_trajectory(
    outputs: Sequence[CoupledOutput], families: Sequence[CoupledFamily], *, config: ObsConfig, name: str
) -> CoupledTrajectory:
    """Greedy OBS removal orders of all families, with the compensated weights of all outputs at every level.

    Args:
        outputs: The linears.
        families: The groups; those of one column that feed a single output are removed in blocks, as in `obs`.
        config: Damping and block size.
        name: The layer's name, for messages.

    Raises:
        InputError: If a value is NaN or infinite, a Hessian is no second moment, or it stays singular up to
            `config.max_damping`.
    """
    for output in outputs:
        check_values(output.weight, output.hessian, name)
    return rising_damping(lambda damping: _solve(outputs, families, damping, config.block_size), config, name)


def _solve(
    outputs: Sequence[CoupledOutput], families: Sequence[CoupledFamily], damping: float, block_size: int
) -> CoupledTrajectory:
    """The trajectory with one damping; raises IndefiniteError where that is too small."""
    states = [_State(output, families, index, damping, block_size) for index, output in enumerate(outputs)]
    removers = [_remover(family, states) for family in families]
    levels = []
    for level in range(len(families[0].removals)):
        for family, remover in zip(families, removers, strict=True):
            remover.remove(family.removals[level] - (family.removals[level - 1] if level else 0))
        levels.append(tuple(state.weight() for state in states))
    return CoupledTrajectory(tuple(remover.order().cpu() for remover in removers), tuple(levels), damping)


class _State:
    """One output while groups leave it. Columns that were always zero cost nothing and keep their weight."""

    def __init__(
        self, output: CoupledOutput, families: Sequence[CoupledFamily], index: int, damping: float, block_size: int
    ) -> None:
        hessian = output.hessian.detach()
        self.share = output.share
        self._dead = dead_columns(hessian)
        self._dense = output.weight.detach().to(hessian.device, torch.float64)
        live = self._dense.masked_fill(self._dead, 0.0)
        self.solver = ChannelSolver(live, damped_inverse(hessian, damping), block_size, self._singles(families, index))

    def weight(self) -> torch.Tensor:
        """Compensated weight of the columns that are left, float64."""
        kept = self.solver.kept()
        return torch.where(self._dead[kept], self._dense[:, kept], self.solver.weight())

    def _singles(self, families: Sequence[CoupledFamily], index: int) -> torch.Tensor:
        """Which columns are groups by themselves that feed this output only."""
        mask = torch.zeros_like(self._dead)
        for family in families:
            columns = family.columns[index]
            if columns is not None and _is_single(family):
                mask[columns.flatten()] = True
        return mask


def _is_single(family: CoupledFamily) -> bool:
    fed = [columns for columns in family.columns if columns is not None]
    return len(fed) == 1 and fed[0].shape[1] == 1


def _remover(family: CoupledFamily, states: Sequence[_State]) -> _ChannelRemover | _GroupRemover:
    pairs = [(s, columns) for s, columns in zip(states, family.columns, strict=True) if columns is not None]
    return _ChannelRemover(*pairs[0]) if _is_single(family) else _GroupRemover(pairs)


class _ChannelRemover:
    """Removes single columns of one output, in blocks."""

    def __init__(self, state: _State, columns: torch.Tensor) -> None:
        self._state = state
        self._columns = columns.flatten()

    def remove(self, count: int) -> None:
        self._state.solver.remove(count)

    def order(self) -> torch.Tensor:
        removed = self._state.solver.order()
        return torch.searchsorted(self._columns.to(removed.device), removed)


class _GroupRemover:
    """Removes groups of several columns, or of several outputs, one by one."""

    def __init__(self, fed: Sequence[tuple[_State, torch.Tensor]]) -> None:
        self._fed = fed
        self._left = list(range(len(fed[0][1])))
        self._removed: list[int] = []

    def remove(self, count: int) -> None:
        for _ in range(count):
            parts = [state.share * state.solver.group_scores(columns[self._left]) for state, columns in self._fed]
            best = self._left.pop(int(torch.stack(parts).sum(dim=0).argmin()))  # the first of equals
            for state, columns in self._fed:
                state.solver.remove_group(columns[best])
            self._removed.append(best)

    def order(self) -> torch.Tensor:
        return torch.tensor(self._removed, dtype=torch.int64)
