"""How groups leave the linears that they feed: channels of one linear in blocks, everything else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from diff_es.pruning.hessian import damped_inverse, dead_columns
from diff_es.pruning.obs_channels import ChannelSolver

if TYPE_CHECKING:
    from diff_es.pruning.obs import ObsFamily, ObsOutput


class OutputState:
    """One output while groups leave it. Columns that were always zero cost nothing and keep their weight.

    Args:
        output: The linear.
        families: All families of the layer.
        index: Which of a family's `columns` are those of this output.
        damping: Share of the Hessian's mean diagonal.
        block_size: As of `ObsConfig`.
    """

    def __init__(
        self, output: ObsOutput, families: Sequence[ObsFamily], index: int, damping: float, block_size: int
    ) -> None:
        hessian = output.hessian.detach()
        self.share = output.share
        self._given = output.weight
        self._dead = dead_columns(hessian)
        self._dense = output.weight.detach().to(hessian.device, torch.float64)
        # A dead column has no cross terms, so zeroing it changes no other column and takes its damping out of scores.
        live = self._dense.masked_fill(self._dead, 0.0)
        self.solver = ChannelSolver(live, damped_inverse(hessian, damping), block_size, self._singles(families, index))

    def weight(self) -> torch.Tensor:
        """Compensated weight of the columns that are left, float64; where all are, the weight as it was given."""
        kept = self.solver.kept()
        if len(kept) == len(self._dead):
            return self._given
        return torch.where(self._dead[kept], self._dense[:, kept], self.solver.weight())

    def _singles(self, families: Sequence[ObsFamily], index: int) -> torch.Tensor:
        """Which columns are groups by themselves that feed this output only."""
        mask = torch.zeros_like(self._dead)
        for family in families:
            columns = family.columns[index]
            if columns is not None and _is_single(family):
                mask[columns.flatten()] = True
        return mask


def _is_single(family: ObsFamily) -> bool:
    fed = [columns for columns in family.columns if columns is not None]
    return len(fed) == 1 and fed[0].shape[1] == 1


def remover_of(family: ObsFamily, states: Sequence[OutputState]) -> _ChannelRemover | _GroupRemover:
    """Return what removes the groups of a family from the outputs that they feed, lowest score first.

    Args:
        family: The groups.
        states: All outputs of the layer.
    """
    pairs = [(s, columns) for s, columns in zip(states, family.columns, strict=True) if columns is not None]
    return _ChannelRemover(*pairs[0]) if _is_single(family) else _GroupRemover(pairs)


class _ChannelRemover:
    """Removes single columns of one output, in blocks."""

    def __init__(self, state: OutputState, columns: torch.Tensor) -> None:
        self._state = state
        self._columns = columns.flatten()

    def remove(self, count: int) -> None:
        self._state.solver.remove(count)

    def order(self) -> torch.Tensor:
        removed = self._state.solver.order()
        return torch.searchsorted(self._columns.to(removed.device), removed)


class _GroupRemover:
    """Removes groups of several columns, or of several outputs, one by one."""

    def __init__(self, fed: Sequence[tuple[OutputState, torch.Tensor]]) -> None:
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
