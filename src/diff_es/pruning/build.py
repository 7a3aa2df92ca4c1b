"""Build a bank: run the pruner on every layer of every stage and keep its trajectory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diff_es.artifacts import claim, list_files
from diff_es.bank import Bank, BankInfo
from diff_es.bank.bank import BLOCK_ORDER, FORMAT, STATISTICS, level_key, write_manifest
from diff_es.calibration.store import tensor_names
from diff_es.denoisers import Layer, dense_denoiser_of, fingerprint
from diff_es.errors import InputError
from diff_es.progress import in_bytes, in_time, track
from diff_es.pruning.cost import bank_seconds
from diff_es.pruning.pruners import BankConfig, pruners, stack_order
from diff_es.pruning.sizes import BankSizes, lost_to_rounding
from diff_es.pruning.trajectory import LayerTrajectory
from diff_es.tensors import Shard, shard_name, stream_tensors
from diff_es.versions import versions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.calibration import CalibrationStats
    from diff_es.calibration.statistics import Statistic
    from diff_es.stages import StagePlan


logger = logging.getLogger(__name__)


@torch.no_grad()
def build_bank(
    pipe: Any, stats: CalibrationStats, plan: StagePlan, config: BankConfig, folder: str | Path | None = None
) -> Bank:
    """Compute every layer's pruning trajectory in every stage.

    Args:
        pipe: The pipeline that was calibrated; it is not changed.
        stats: Its calibration statistics.
        plan: The stages that they were collected for.
        config: Pruner and levels.
        folder: Where to keep the bank, one file per stage; stages whose file exists are not computed again.
            None keeps it in memory.

    Raises:
        InputError: the folder was made with other settings or of other statistics, the statistics are of other stages
            or lack what the pruner needs, or no damping helps a Hessian.
    """
    info = _described(pipe, stats, plan, config)
    folder = Path(folder) if folder else None
    if folder:
        info = _claimed(folder, info)
    _announce(pipe, config, [stage for stage in range(len(stats.sets)) if _is_missing(folder, stage)])
    stages = track(range(len(stats.sets)), "Pruning stages")
    shards = tuple(prune_stage(pipe, stats, config, stage, folder) for stage in stages)
    if folder:
        info = replace(info, versions=versions(), files=list_files(folder))
        write_manifest(folder, info)
    return Bank(info, shards)


def missing_stages(pipe: Any, stats: CalibrationStats, plan: StagePlan, config: BankConfig, folder: Path) -> list[int]:
    """Prepare a folder as `build_bank` does, and return the stages that it lacks.

    Several processes may then share them, by `prune_stage`; `build_bank` finds their files.

    Raises:
        InputError: as `build_bank`.
    """
    _claimed(folder, _described(pipe, stats, plan, config))
    missing = [stage for stage in range(len(stats.sets)) if _is_missing(folder, stage)]
    _announce(pipe, config, missing)
    return missing


def _described(pipe: Any, stats: CalibrationStats, plan: StagePlan, config: BankConfig) -> BankInfo:
    """Describe a bank, without its files."""
    if stats.num_stages != plan.num_stages:
        raise InputError(f"The statistics have {stats.num_stages} stages, the plan {plan.num_stages}.")
    denoiser = dense_denoiser_of(pipe)
    layers = config.layers(denoiser)
    multiple = config.multiple_for(denoiser)
    digest = _digest(stats, layers, pruners[config.method].needs)
    return BankInfo(
        format=FORMAT,
        fingerprint=fingerprint(denoiser),
        method=config.method,
        depth=pruners[config.method].depth,
        num_levels=config.num_levels,
        plan=plan,
        layers=tuple(layer.name for layer in layers),
        shared=stats.shared,
        settings={
            "damping": config.damping,
            "intercept": config.intercept,
            **({"width_multiple": multiple} if multiple > 1 else {}),
            **({STATISTICS: digest} if digest else {}),
        },
    )


def _digest(stats: CalibrationStats, layers: Sequence[Layer], needs: Sequence[Statistic]) -> str:
    """Return a sha256 of the statistics that a pruner reads; empty where it reads none, or they are not there.

    Second moments are left out: they are as large as the weights, and no others have the same means and rows.
    """
    found = hashlib.sha256()
    names = [name for name in tensor_names(layers, needs) if not name.endswith("second_moment")] if needs else []
    for tensors in stats.sets:
        for name in names:
            if name not in tensors:
                return ""
            found.update(name.encode())
            found.update(tensors[name].cpu().numpy().tobytes())
    return found.hexdigest() if names else ""


def _claimed(folder: Path, info: BankInfo) -> BankInfo:
    """Claim the folder and return its description: one begun by an older version does not name its statistics."""
    try:
        claim(folder, info)
    except InputError:
        unnamed = {name: value for name, value in info.settings.items() if name != STATISTICS}
        info = replace(info, settings=unnamed)
        claim(folder, info)
    return info


def _is_missing(folder: Path | None, stage: int) -> bool:
    return folder is None or not (folder / shard_name(stage)).exists()


def _announce(pipe: Any, config: BankConfig, stages: Sequence[int]) -> None:
    """Say what the stages will take, and what rounding leaves in, where that is worth a line."""
    denoiser = dense_denoiser_of(pipe)
    layers = config.layers(denoiser)
    lost = lost_to_rounding(layers, config.num_levels)
    if stages and lost:
        what = f"Widths in multiples of {config.multiple_for(denoiser)}"
        logger.info("%s: levels remove up to %.1f %% of the channels less.", what, 100 * lost)
    pruner = pruners[config.method]
    if not stages or not pruner.compensates or not logger.isEnabledFor(logging.INFO):
        return
    sizes = BankSizes(denoiser, config.num_levels, compensated=True, intercept=config.intercept)
    stored = len(stages) * sum(size for layer in layers for size in sizes.trajectory(layer))
    seconds = len(stages) * bank_seconds(denoiser, layers)
    what = f"Bank of {len(stages)} {'stage' if len(stages) == 1 else 'stages'}, {len(layers)} layers each"
    logger.info("%s: %s stored, about %s of solving.", what, in_bytes(stored), in_time(seconds))


@torch.no_grad()
def prune_stage(
    pipe: Any, stats: CalibrationStats, config: BankConfig, stage: int, folder: Path | None
) -> Mapping[str, Tensor]:
    """Compute one stage of a bank: layer by layer to its file, unless that is there already.

    Args:
        pipe: As for `build_bank`, which has claimed the folder.
        stats: As for `build_bank`.
        config: As for `build_bank`.
        stage: Index of the stage; 0 where one set of statistics serves all.
        folder: Where the file is kept; None keeps the weights in memory.

    Returns:
        The stage's tensors, in the model's dtype, on the CPU.

    Raises:
        InputError: the statistics lack what the pruner needs, or no damping helps a Hessian.
    """
    denoiser = dense_denoiser_of(pipe)
    layers = config.layers(denoiser)
    tensors = _stage_tensors(denoiser, layers, stats, stage, config)
    if folder is None:
        return dict(tensors)
    path = folder / shard_name(stage)
    if not path.exists():
        stream_tensors(path, _names(layers, config), tensors)
    return Shard(path)


def _stage_tensors(
    denoiser: nn.Module, layers: Sequence[Layer], stats: CalibrationStats, stage: int, config: BankConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of one stage's shard, layer by layer."""
    pruner = pruners[config.method]
    if pruner.trajectory is None:
        yield BLOCK_ORDER, stack_order([stats.of(stage, layer).similarity for layer in layers])
        return
    dtype = next(denoiser.parameters()).dtype
    for layer in layers:
        parameters = dict(_parameters(denoiser, (*layer.inputs, *layer.outputs)))
        # No name for the trajectory here: it would live on while the next one is solved.
        yield from _tensors(layer, pruner.trajectory(layer, parameters, stats.of(stage, layer), config), config, dtype)


def _parameters(denoiser: nn.Module, paths: Iterable[str]) -> Iterable[tuple[str, Tensor]]:
    for path in paths:
        for name, parameter in denoiser.get_submodule(path).named_parameters(recurse=False):
            yield f"{path}.{name}", parameter.detach()


def _names(layers: Sequence[Layer], config: BankConfig) -> Iterator[str]:
    """Yield the names of all tensors that a stage's shard may hold."""
    pruner = pruners[config.method]
    if pruner.trajectory is None:
        yield BLOCK_ORDER
        return
    parts = ("weight", "bias") if config.intercept else ("weight",)
    for layer in layers:
        yield _order_name(layer)
        for level in _distinct(layer, config.num_levels) if pruner.compensates else ():
            paths = (f"{path}.{part}" for path in layer.outputs for part in parts)
            yield from (f"{level_key(layer.name, level)}/{path}" for path in paths)


def _tensors(
    layer: Layer, trajectory: LayerTrajectory, config: BankConfig, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Name a layer's tensors; levels that remove no more than the one before them are stored once."""
    yield _order_name(layer), trajectory.order.cpu()
    for level in _distinct(layer, config.num_levels):
        for name, tensor in trajectory.outputs.get(level, {}).items():
            yield f"{level_key(layer.name, level)}/{name}", tensor.to("cpu", dtype)


def _order_name(layer: Layer) -> str:
    return f"{layer.name}/order"


def _distinct(layer: Layer, num_levels: int) -> list[int]:
    """Levels ≥ 1 that remove more than the one before."""
    counts = layer.removed(num_levels)
    return [level for level, count in enumerate(counts) if level and count > counts[level - 1]]
