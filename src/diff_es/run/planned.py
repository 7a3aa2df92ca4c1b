"""A bank before it is made: how many groups each level keeps is known from the start, which ones is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from diff_es.bank import ThinLayer
from diff_es.denoisers import fingerprint
from diff_es.pruning import pruners

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.denoisers import Fingerprint, Layer
    from diff_es.pruning import BankConfig
    from diff_es.stages import StagePlan


@dataclass(frozen=True)
class PlannedBank:
    """Stands in for the bank where sizes are asked for: at each level the first groups of a layer stay.

    Attributes:
        denoiser: The dense model.
        config: How the bank will be made.
        plan: The stages.
    """

    denoiser: nn.Module
    config: BankConfig
    plan: StagePlan

    @property
    def fingerprint(self) -> Fingerprint:
        """The dense denoiser."""
        return fingerprint(self.denoiser)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the denoiser."""
        return tuple(self._layers)

    @property
    def num_levels(self) -> int:
        """H, the level at which a layer is gone."""
        return self.config.num_levels

    @property
    def depth(self) -> bool:
        """Whether the layers are whole blocks."""
        return pruners[self.config.method].depth

    def kept(self, stage: int, layer: Layer, level: int) -> Tensor:  # noqa: ARG002 (of a source: all stages are alike)
        """Return as many groups of each family as the level keeps."""
        own = self._layers[layer.name]
        counts = (family.count - family.removed(self.num_levels)[level] for family in own.families)
        return torch.cat([torch.arange(first, first + n) for first, n in zip(own.firsts, counts, strict=True)])

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        """Return those groups, with nothing compensated."""
        return ThinLayer(self.kept(stage, layer, level))

    @cached_property
    def _layers(self) -> Mapping[str, Layer]:
        """Name → layer, with its widths rounded as wanted."""
        return {layer.name: layer for layer in self.config.layers(self.denoiser)}
