"""Build a bank: run the pruner on every layer of every stage and keep its trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diff_es.artifacts import claim, list_files
from diff_es.bank import Bank, BankInfo
from diff_es.bank.bank import BLOCK_ORDER, FORMAT, level_key, shard_name, write_manifest
from diff_es.denoisers import Layer, dense_denoiser_of, fingerprint, spec_of
from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.pruning.pruners import BankConfig, pruners, stack_order
from diff_es.pruning.trajectory import LayerTrajectory
from diff_es.tensors import Shard, write_tensors
from diff_es.versions import versions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.calibration import CalibrationStats
    from diff_es.stages import StagePlan


@torch.no_grad()
def build_bank(
    pipe: Any, stats: CalibrationStats, plan: StagePlan, config: BankConfig, folder: Path | None = None
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
        InputError: the folder was made with other settings, the statistics are of other stages or lack what the
            pruner needs, or no damping helps a Hessian.
    """
    if stats.num_stages != plan.num_stages:
        raise InputError(f"The statistics have {stats.num_stages} stages, the plan {plan.num_stages}.")
    denoiser = dense_denoiser_of(pipe)
    layers = spec_of(denoiser).layers(denoiser, blocks=pruners[config.method].depth)
    info = BankInfo(
        format=FORMAT,
        fingerprint=fingerprint(denoiser),
        method=config.method,
        depth=pruners[config.method].depth,
        num_levels=config.num_levels,
        plan=plan,
        layers=tuple(layer.name for layer in layers),
        shared=stats.shared,
        settings={"damping": config.damping, "intercept": config.intercept},
    )
    if folder:
        claim(folder, info)
    shards: list[Mapping[str, Tensor]] = []
    for stage in track(range(len(stats.sets)), "Pruning stages"):
        path = folder / shard_name(stage) if folder else None
        if path is None:
            shards.append(_prune_stage(denoiser, layers, stats, stage, config))
            continue
        if not path.exists():
            write_tensors(path, _prune_stage(denoiser, layers, stats, stage, config))
        shards.append(Shard(path))
    if folder:
        info = replace(info, versions=versions(), files=list_files(folder))
        write_manifest(folder, info)
    return Bank(info, tuple(shards))


def _prune_stage(
    denoiser: nn.Module, layers: Sequence[Layer], stats: CalibrationStats, stage: int, config: BankConfig
) -> dict[str, Tensor]:
    """Return all tensors of one stage's shard, in the model's dtype, on the CPU."""
    pruner = pruners[config.method]
    if pruner.trajectory is None:
        return {BLOCK_ORDER: stack_order([stats.of(stage, layer).similarity for layer in layers])}
    dtype = next(denoiser.parameters()).dtype
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        parameters = dict(_parameters(denoiser, (*layer.inputs, *layer.outputs)))
        trajectory = pruner.trajectory(layer, parameters, stats.of(stage, layer), config)
        tensors |= _tensors(layer, trajectory, config, dtype)
    return tensors


def _parameters(denoiser: nn.Module, paths: Iterable[str]) -> Iterable[tuple[str, Tensor]]:
    for path in paths:
        for name, parameter in denoiser.get_submodule(path).named_parameters(recurse=False):
            yield f"{path}.{name}", parameter.detach()


def _tensors(layer: Layer, trajectory: LayerTrajectory, config: BankConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Name a layer's tensors; levels that remove no more than the one before them are stored once."""
    counts = layer.removed(config.num_levels)
    distinct = [level for level, count in enumerate(counts) if level and count > counts[level - 1]]
    tensors = {f"{layer.name}/order": trajectory.order.cpu()}
    for level in set(distinct) & set(trajectory.outputs):
        key = level_key(layer.name, level)
        tensors |= {f"{key}/{name}": tensor.to("cpu", dtype) for name, tensor in trajectory.outputs[level].items()}
    return tensors
