"""The artefact: one schedule with the thin weights that it needs, to be used without the bank and the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diff_es.artifacts import (
    MANIFEST,
    FileEntry,
    check_files,
    list_files,
    new_folder,
    read_manifest,
    write_record,
)
from diff_es.bank.thin import ThinLayer, ThinSource
from diff_es.denoisers import Fingerprint, Layer
from diff_es.errors import ArtifactError, InputError
from diff_es.sampling import SamplerConfig
from diff_es.schedule import PruningSchedule
from diff_es.stages import StagePlan
from diff_es.tensors import Shard, shard_name, write_tensors
from diff_es.versions import versions

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2


def refuse_run_directory(folder: Path) -> None:
    """Name the artefact where its run directory was given.

    Raises:
        InputError: the folder is a run directory.
    """
    if (folder / "pruned" / MANIFEST).is_file():
        raise InputError(f"{folder} is a run directory; name its artefact, {folder / 'pruned'}.")


@dataclass(frozen=True)
class PrunedInfo:
    """The manifest of an artefact.

    Attributes:
        format: Version of the folder's format.
        base_model: How the dense pipeline is loaded: an absolute path, a Hub id, or "zoo:NAME".
        fingerprint: The dense denoiser.
        scheduler: Class of the sampler that the schedule was searched for.
        scheduler_config: Options of that sampler that are not its defaults; None where the artefact was written before
            they were kept.
        sampler: Steps and guidance that it was searched for.
        method: The pruner.
        depth: Whether whole blocks are dropped.
        plan: The stages.
        schedule: What is pruned where.
        versions: Package versions.
        files: Every file of the folder, with its sha256.
    """

    format: int
    base_model: str
    fingerprint: Fingerprint
    scheduler: str
    sampler: SamplerConfig
    method: str
    depth: bool
    plan: StagePlan
    schedule: PruningSchedule
    versions: dict[str, str]
    files: tuple[FileEntry, ...] = ()
    scheduler_config: dict[str, Any] | None = None


@dataclass(frozen=True)
class Pruned:
    """An opened artefact; it gives thin layers like a bank, of its one schedule."""

    info: PrunedInfo
    shards: tuple[Mapping[str, Tensor], ...]

    @classmethod
    def open(cls, folder: str | Path) -> Pruned:
        """Open an artefact; every file is checked against the manifest.

        Raises:
            ArtifactError: incomplete, foreign, damaged, of a newer format, or naming files outside the folder.
            InputError: a run directory, which holds the artefact.
        """
        folder = Path(folder)
        refuse_run_directory(folder)
        info = read_manifest(folder, PrunedInfo, FORMAT)
        check_files(folder, info.files)
        return cls(info, tuple(Shard(folder / shard_name(index)) for index in range(info.plan.num_stages)))

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
        return self.info.schedule.layers

    @property
    def num_levels(self) -> int:
        """H, the level at which a layer is gone."""
        return self.info.schedule.num_levels

    @property
    def depth(self) -> bool:
        """Whether the layers are whole blocks."""
        return self.info.depth

    def kept(self, stage: int, layer: Layer, level: int) -> Tensor:
        """Return the groups that a layer keeps, ascending, int64.

        Raises:
            InputError: another level than the schedule's.
            ArtifactError: the shard lacks the layer.
        """
        own = self.info.schedule.layer_levels[stage][self.layers.index(layer.name)]
        if level != own:
            raise InputError(f"The artefact holds {layer.name} of stage {stage} at level {own}, not {level}.")
        shard = self.shards[stage]
        if f"{layer.name}/kept" not in shard:
            raise ArtifactError(f"{shard_name(stage)} lacks {layer.name}, which the schedule prunes.")
        return shard[f"{layer.name}/kept"]

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        """Return the layer as the schedule has it.

        Raises:
            InputError: another level than the schedule's.
            ArtifactError: the shard lacks the layer.
        """
        kept, shard = self.kept(stage, layer, level), self.shards[stage]
        names = (f"{path}.{part}" for path in layer.outputs for part in ("weight", "bias"))
        return ThinLayer(kept, {name: shard[name] for name in names if name in shard})

    def __deepcopy__(self, memo: dict[int, Any]) -> Pruned:
        """An artefact never changes: copies of a routed model share it."""
        return self


def save_pruned(folder: Path, info: PrunedInfo, source: ThinSource, layers: tuple[Layer, ...]) -> Pruned:
    """Write an artefact, complete or not at all, and open it.

    Args:
        folder: Must not exist.
        info: The manifest; its list of files is filled in here.
        source: The bank that the schedule was searched in.
        layers: The denoiser's layers, as the spec gives them.

    Raises:
        InputError: the folder exists.
        ArtifactError: it cannot be written (disk full, no permission).
    """
    with new_folder(folder) as temporary:
        for stage, row in enumerate(info.schedule.layer_levels):
            write_tensors(temporary / shard_name(stage), _stage_tensors(source, layers, stage, row))
        write_record(temporary / "schedule.json", info.schedule)
        write_record(temporary / MANIFEST, replace(info, files=list_files(temporary), versions=versions()))
    return Pruned.open(folder)


def _stage_tensors(
    source: ThinSource, layers: tuple[Layer, ...], stage: int, row: tuple[int, ...]
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, level in zip(layers, row, strict=True):
        if level == 0:
            continue
        thin = source.thin(stage, layer, level)
        tensors |= {f"{layer.name}/kept": thin.kept, **thin.outputs}
    return tensors
