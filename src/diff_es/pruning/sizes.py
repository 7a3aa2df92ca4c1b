"""How many bytes a bank takes, and the thin weights of one level: from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.schedule import groups_removed

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers import Layer


def lost_to_rounding(layers: Sequence[Layer], num_levels: int) -> float:
    """Return the largest share of all channels, over the levels, that a level asks for and rounded widths keep."""
    families = [family for layer in layers for family in layer.families if family.kind == "channel"]
    kept = [
        sum(groups_removed(own.count, num_levels)[level] - own.removed(num_levels)[level] for own in families)
        for level in range(num_levels + 1)
    ]
    return max(kept) / sum(own.count for own in families) if families else 0.0


@dataclass(frozen=True)
class BankSizes:
    """Bytes of each tensor that is kept of a layer in one stage.

    Attributes:
        denoiser: The dense model, with or without weights.
        num_levels: H.
        compensated: Whether the pruner moves weights, so that every level has its own.
        intercept: Whether it moves biases.
    """

    denoiser: nn.Module
    num_levels: int
    compensated: bool
    intercept: bool

    def trajectory(self, layer: Layer) -> Iterator[int]:
        """What the bank keeps: the order, int64, and weights by level."""
        yield 8 * layer.num_groups
        removed = layer.removed(self.num_levels)
        for level in range(1, self.num_levels + 1):
            if self.compensated and removed[level] > removed[level - 1]:  # else the level before is read in its place
                yield from self._outputs(layer, level)

    def level(self, layer: Layer, level: int) -> Iterator[int]:
        """What an artefact keeps at one level."""
        yield 8 * (layer.num_groups - layer.removed(self.num_levels)[level])
        if self.compensated:
            yield from self._outputs(layer, level)

    def _outputs(self, layer: Layer, level: int) -> Iterator[int]:
        """Each output projection at a level, and its bias where that moves."""
        _, columns = layer.lost([family.removed(self.num_levels)[level] for family in layer.families])
        for path in layer.outputs:
            weight = self.denoiser.get_parameter(f"{path}.weight")
            yield (weight.shape[1] - columns[path]) * weight[:, :1].numel() * weight.element_size()
            if self.intercept and getattr(self.denoiser.get_submodule(path), "bias", None) is not None:
                yield weight.shape[0] * weight.element_size()
