"""What the router asks of whoever holds pruned weights: a bank (all levels) or an artefact (one schedule)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.denoisers import Fingerprint, Layer
    from diff_es.stages import StagePlan


@dataclass(frozen=True)
class ThinLayer:
    """What is left of one layer in one stage.

    Attributes:
        kept: Ascending indices of the groups that stay, int64.
        weight: Compensated output projection, shape (rows, kept columns); None where the dense columns are used.
        bias: Its bias, shape (rows,); None where the dense bias is used.
    """

    kept: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None


class ThinSource(Protocol):
    """Gives thin layers of one dense model."""

    @property
    def plan(self) -> StagePlan:
        """The stages."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The dense denoiser that the thin layers belong to."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the denoiser."""

    @property
    def num_levels(self) -> int:
        """H, the level at which a layer is gone."""

    @property
    def depth(self) -> bool:
        """Whether the layers are whole blocks (LayerDrop)."""

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        """Return the layer at a level ≥ 1 of a stage."""


def group_columns(groups: Tensor, group_size: int) -> Tensor:
    """Columns of the given groups: group g owns columns g * group_size … (g + 1) * group_size - 1.

    Args:
        groups: Group indices, int64, shape (n,).
        group_size: Columns per group, at least 1.

    Returns:
        Column indices in the order of `groups`, int64, shape (n * group_size,).
    """
    offsets = torch.arange(group_size, device=groups.device)
    return (groups[:, None] * group_size + offsets).flatten()
