"""Calibration statistics as the pruners read them: one set per stage, or one for all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diff_es.calibration.statistics import LayerStatistics, Moments
from diff_es.errors import InputError
from diff_es.tensors import Shard, shard_name

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.calibration.statistics import Statistic
    from diff_es.denoisers import Layer


#: Prefix of the names of moments whose steps are weighted.
STEP_WEIGHTED = "step_weighted_"


def tensor_names(layers: Iterable[Layer], collect: Collection[Statistic]) -> Iterator[str]:
    """Yield the names of all tensors that these statistics of these layers consist of."""
    moments = ("second_moment", "mean", "rows")
    for layer in layers:
        if layer.kind == "block":
            yield f"{layer.name}/similarity"
        if "second_moment" in collect:
            yield from (f"{path}/{kind}" for path in layer.outputs for kind in moments)
        if "step_weighted_moment" in collect:
            yield from (f"{path}/{STEP_WEIGHTED}{kind}" for path in layer.outputs for kind in moments)
        if "input_norms" in collect:
            yield from (f"{path}/input_norms" for path in layer.scored)
        if "importance" in collect:
            yield from (f"{path}/importance" for path in dict.fromkeys((*layer.inputs, *layer.outputs)))


@dataclass(frozen=True)
class CalibrationStats:
    """Statistics of all stages.

    Attributes:
        sets: One mapping of named tensors per stage, or a single one that serves all (shared calibration).
        num_stages: Number of stages.
    """

    sets: tuple[Mapping[str, Tensor], ...]
    num_stages: int

    def __post_init__(self) -> None:
        if len(self.sets) not in (1, self.num_stages):
            raise InputError(f"{len(self.sets)} sets of statistics for {self.num_stages} stages.")

    @classmethod
    def open(cls, folder: Path, num_stages: int, *, shared: bool) -> CalibrationStats:
        """Open statistics written by `calibrate`; tensors are read when asked for."""
        return cls(tuple(Shard(folder / shard_name(i)) for i in range(1 if shared else num_stages)), num_stages)

    @property
    def shared(self) -> bool:
        """Whether one set serves every stage."""
        return len(self.sets) == 1 < self.num_stages

    def of(self, stage: int, layer: Layer) -> LayerStatistics:
        """Return what was collected for one layer in one stage."""
        tensors = self.sets[0 if len(self.sets) == 1 else stage]
        norms = {path: tensors[f"{path}/input_norms"] for path in layer.inputs if f"{path}/input_norms" in tensors}
        linears = (*layer.inputs, *layer.outputs)
        importance = {path: tensors[f"{path}/importance"] for path in linears if f"{path}/importance" in tensors}
        similarity = tensors.get(f"{layer.name}/similarity")
        return LayerStatistics(
            moments=_moments(tensors, layer, ""),
            input_norms=norms or None,
            similarity=None if similarity is None else float(similarity),
            step_weighted_moments=_moments(tensors, layer, STEP_WEIGHTED),
            importance=importance or None,
        )


def _moments(tensors: Mapping[str, Tensor], layer: Layer, prefix: str) -> dict[str, Moments] | None:
    """Moments of a layer's output projections, whose names in the file begin with `prefix`."""
    known = {path: f"{path}/{prefix}" for path in layer.outputs if f"{path}/{prefix}second_moment" in tensors}
    found = {
        path: Moments(tensors[f"{key}second_moment"], tensors[f"{key}mean"], float(tensors[f"{key}rows"]))
        for path, key in known.items()
    }
    return found or None
