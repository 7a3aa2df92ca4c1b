"""KEEP the nested pruned weights of every stage, layer and level; read them lazily.

A bank holds, per stage and layer, the order in which groups leave and, for pruners that compensate, the output
projections at every level (kept columns only). Level 0 holds nothing: it is the dense model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diff_es.artifacts import MANIFEST, FileEntry, check_files, read_manifest, write_record
from diff_es.bank.thin import ThinLayer
from diff_es.denoisers import Fingerprint, Layer
from diff_es.errors import InputError
from diff_es.schedule import Allocation, Levels, ScheduleSpace, groups_removed
from diff_es.stages import StagePlan
from diff_es.tensors import Shard, shard_name

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
#: Key of the order in which whole blocks leave.
BLOCK_ORDER = "blocks/order"
#: Setting that tells the statistics apart which the weights were made of.
STATISTICS = "statistics"


@dataclass(frozen=True)
class BankInfo:
    """The manifest of a bank.

    Attributes:
        format: Version of the folder's format.
        fingerprint: The dense denoiser.
        method: Name of the pruner.
        depth: Whether whole blocks are dropped.
        num_levels: H.
        plan: The stages.
        layers: Names of the layers, in the order of the denoiser.
        shared: Whether one set of weights serves all stages.
        settings: What else the weights depend on (damping, intercept; width_multiple, where that is not 1; a sha256 of
            the calibration statistics, where the pruner reads some; banks of older versions lack it).
        versions: Package versions.
        files: Every file of the folder, with its sha256.
    """

    format: int
    fingerprint: Fingerprint
    method: str
    depth: bool
    num_levels: int
    plan: StagePlan
    layers: tuple[str, ...]
    shared: bool
    settings: dict[str, float | int | bool | str]
    versions: dict[str, str] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()

    @property
    def width_multiple(self) -> int:
        """What the number of kept channels is rounded up to a multiple of."""
        return int(self.settings.get("width_multiple", 1))


@dataclass(frozen=True)
class Bank:
    """Pruned weights of all stages, layers and levels of one denoiser.

    Attributes:
        info: The manifest.
        shards: One mapping of named tensors per stage, or a single one that serves all.
    """

    info: BankInfo
    shards: tuple[Mapping[str, Tensor], ...]

    @classmethod
    def open(cls, folder: str | Path) -> Bank:
        """Open a bank on disk; every file is checked, tensors are read when asked for.

        Raises:
            ArtifactError: not a complete bank, of a newer format, or damaged.
        """
        folder = Path(folder)
        info = read_manifest(folder, BankInfo, FORMAT)
        check_files(folder, info.files)
        count = 1 if info.shared else info.plan.num_stages
        return cls(info, tuple(Shard(folder / shard_name(index)) for index in range(count)))

    @property
    def plan(self) -> StagePlan:
        """The stages."""
        return self.info.plan

    @property
    def fingerprint(self) -> Fingerprint:
        """The dense denoiser."""
        return self.info.fingerprint

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the denoiser."""
        return self.info.layers

    @property
    def num_levels(self) -> int:
        """H, the level at which a layer is gone."""
        return self.info.num_levels

    @property
    def depth(self) -> bool:
        """Whether the layers are whole blocks."""
        return self.info.depth

    def space(self, sparsity: float, max_levels: Levels | None = None) -> ScheduleSpace:
        """Return the schedules that remove `sparsity` (0 to 1) of the prunable groups over a denoising run.

        Args:
            sparsity: The budget.
            max_levels: Highest level per stage; H everywhere by default.
        """
        caps = max_levels or (self.num_levels,) * self.plan.num_stages
        return ScheduleSpace(self.plan.steps_per_stage, self.num_levels, sparsity, caps)

    def uniform_allocation(self) -> Allocation:
        """Return the paper's allocation.

        Width: every layer of a stage at the stage's level. Depth: level ℓ drops the ℓ/H of the blocks that come
        first in the stage's order.
        """
        stages, levels = self.plan.num_stages, self.num_levels
        if not self.depth:
            return Allocation.uniform(self.layers, stages, levels)
        table = tuple(_dropped(self._shard(stage)[BLOCK_ORDER].tolist(), levels) for stage in range(stages))
        return Allocation("uniform", self.layers, table)

    def kept(self, stage: int, layer: Layer, level: int) -> Tensor:
        """Return the groups that a layer keeps at a level in 1…H of a stage, ascending, int64."""
        if not 0 < level <= self.num_levels:
            raise InputError(f"level={level} must lie in 1…{self.num_levels}.")
        if layer.kind == "block":
            return torch.empty(0, dtype=torch.int64)
        return self._shard(stage)[f"{layer.name}/order"][self._removed(layer)[level] :].sort().values

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        """Return the layer at a level in 1…H of a stage."""
        kept = self.kept(stage, layer, level)
        if layer.kind == "block":
            return ThinLayer(kept)
        shard, counts = self._shard(stage), self._removed(layer)
        # With more levels than groups, neighbouring levels are the same; the first of them is stored.
        key = level_key(layer.name, counts.index(counts[level]))
        names = (f"{path}.{part}" for path in layer.outputs for part in ("weight", "bias"))
        return ThinLayer(kept, {name: shard[f"{key}/{name}"] for name in names if f"{key}/{name}" in shard})

    def _removed(self, layer: Layer) -> tuple[int, ...]:
        return layer.in_multiples(self.info.width_multiple).removed(self.num_levels)

    def _shard(self, stage: int) -> Mapping[str, Tensor]:
        return self.shards[0 if self.info.shared else stage]

    def __deepcopy__(self, memo: dict[int, Any]) -> Bank:
        """A bank never changes: copies of a routed model share it."""
        return self


def level_key(layer: str, level: int) -> str:
    """Common part of the names of a layer's tensors at one level."""
    return f"{layer}/level-{level:03d}"


def write_manifest(folder: Path, info: BankInfo) -> None:
    """Write the manifest, the last file of a bank: its presence says that the bank is complete."""
    write_record(folder / MANIFEST, info)


def _dropped(order: list[int], num_levels: int) -> tuple[Levels, ...]:
    """Block levels (0 or H) for every stage level."""
    counts = groups_removed(len(order), num_levels)
    gone = [set(order[:count]) for count in counts]
    return tuple(tuple(num_levels if block in out else 0 for block in range(len(order))) for out in gone)
