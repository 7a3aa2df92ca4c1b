"""What the router asks of whoever holds pruned weights: a bank (all levels) or an artefact (one schedule)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.denoisers import Fingerprint, Layer
    from diff_es.stages import StagePlan


@dataclass(frozen=True)
class ThinLayer:
    """What is left of one layer in one stage.

    Attributes:
        kept: Ascending numbers of the groups that stay, int64.
        outputs: Compensated parameters of the output projections by path ("….to_out.0.weight", kept columns only, and
            "….to_out.0.bias"); those that are missing are the dense ones.
    """

    kept: Tensor
    outputs: Mapping[str, Tensor] = field(default_factory=dict)


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

    def kept(self, stage: int, layer: Layer, level: int) -> Tensor:
        """Return the groups that a layer keeps at a level ≥ 1 of a stage, ascending, int64; reads no weights."""

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        """Return the layer at a level ≥ 1 of a stage."""
