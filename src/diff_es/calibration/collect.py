"""RUN the dense model on stage-matched inputs, KEEP statistics of its layers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from diff_es.artifacts import claim
from diff_es.calibration.importance import contributing, denoising_losses, importance, target_source
from diff_es.calibration.observe import drained, no_calls, observed, observed_stages
from diff_es.calibration.passes import announced, forecast, layers_of, plan_passes
from diff_es.calibration.sources import CountedSource, LiveSource
from diff_es.calibration.statistics import WHOLE_RUN, Statistic, step_weights
from diff_es.calibration.store import STEP_WEIGHTED, CalibrationStats, tensor_names
from diff_es.denoisers import (
    Fingerprint,
    check_plain_calls,
    denoiser_of,
    dense_denoiser_of,
    fingerprint,
)
from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.registry import suggest
from diff_es.stages import StagePlan
from diff_es.tensors import Shard, shard_name, stream_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.calibration.sources import CalibrationSource
    from diff_es.denoisers import Call, Layer


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationConfig:
    """What is collected, and within which memory.

    Attributes:
        stages: The stages to collect for.
        collect: Statistics to keep: "second_moment" (OBS), "input_norms" (Wanda), "similarity" (LayerDrop). Nothing
            for a pruner that looks at weights only (magnitude); the model is not run then. Or one statistic of the
            whole run, which makes one set for all stages: "step_weighted_moment" (OBS-Diff), "importance"
            (Diff-Pruning; needs a source with targets, such as DatasetSource).
        shared: Collect one set over all timesteps and use it for every stage (the paper does so for SDXL).
        memory_limit: Bytes of device memory that second moments, or gradients, may take at once; when not all layers
            fit, the model runs over the inputs several times. A source that samples fills as many stages at once as
            fit.
    """

    stages: StagePlan
    collect: tuple[Statistic, ...] = ("second_moment", "input_norms", "similarity")
    shared: bool = False
    memory_limit: int = 4 * 2**30

    def __post_init__(self) -> None:
        if isinstance(self.collect, str):
            raise InputError(f"collect={self.collect!r} must be a tuple of names, such as ({self.collect!r},).")
        for name in self.collect:
            if name not in get_args(Statistic):
                raise InputError(f"collect={self.collect} names {name!r}: {suggest(name, get_args(Statistic))}")
        if self.whole_run and len(self.collect) > 1:
            raise InputError(
                f"collect={self.collect}: {' and '.join(sorted(WHOLE_RUN))} are statistics of the whole run, each "
                "collected alone; calibrate once more for the others."
            )

    @property
    def whole_run(self) -> bool:
        """Whether the statistic is one of the whole run, with one set for all stages."""
        return not WHOLE_RUN.isdisjoint(self.collect)

    @property
    def keys(self) -> Sequence[int | None]:
        """The stage of each set of statistics; None for one over all timesteps."""
        return [None] if self.shared or self.whole_run else list(range(self.stages.num_stages))


def calibrate(
    pipe: Any, source: CalibrationSource, config: CalibrationConfig, folder: str | Path | None = None
) -> CalibrationStats:
    """Collect statistics of every prunable layer, per stage. The model runs as it is and is not changed.

    Args:
        pipe: A diffusers pipeline with a supported denoiser.
        source: Gives the denoiser calls of a stage.
        config: What to collect.
        folder: Where to keep the statistics, one file per stage; stages whose file exists are not run again, so one
            folder belongs to one source. None keeps them in memory.

    Raises:
        UnsupportedModelError: no spec for the denoiser, a state that cannot be pruned, or a cache that is enabled.
        InputError: the folder was made with other settings, the memory limit does not hold even one layer, the
            source has no call in a stage, or it has no targets and "importance" is wanted.
    """
    if not config.collect:
        return CalibrationStats(({},), config.stages.num_stages)
    _check(pipe, source, config)
    folder = Path(folder) if folder else None
    if folder:
        claim(folder, _settings(pipe, config))
    done = calibrate_stages(pipe, source, config, config.keys, folder)
    return CalibrationStats(tuple(done[stage] for stage in config.keys), config.stages.num_stages)


def calibrate_stages(
    pipe: Any,
    source: CalibrationSource,
    config: CalibrationConfig,
    stages: Sequence[int | None],
    folder: Path | None,
) -> dict[int | None, Mapping[str, Tensor]]:
    """Collect the statistics of some of the stages, as `calibrate` does of all, which has checked the arguments.

    Raises:
        InputError: as `calibrate`.
    """
    done = _calibrate_live(pipe, source, config, stages, folder)
    left = [stage for stage in stages if stage not in done]
    # A statistic of the whole run shows its own progress, step by step.
    for stage in left if config.whole_run else track(left, "Calibrating stages"):
        done[stage] = calibrate_stage(pipe, source, config, stage, folder)
    return done


def _calibrate_live(
    pipe: Any,
    source: CalibrationSource,
    config: CalibrationConfig,
    stages: Sequence[int | None],
    folder: Path | None,
) -> dict[int | None, Mapping[str, Tensor]]:
    """Collect as many of the stages as the memory limit holds together, while the source samples, in one run.

    Their calls are then neither kept nor run a second time. Stages that are left over, or whose layers need several
    passes, are for `calibrate_stage`; the same run keeps their calls.
    """
    missing = [stage for stage in stages if folder is None or not (folder / shard_name(stage or 0)).exists()]
    if not missing:
        return {}
    expected = forecast(pipe, config, sets=len(missing), live=isinstance(source, LiveSource))
    logger.info("%s", expected)
    watched, later = missing[: expected.live], missing[expected.live :]
    if not watched or not isinstance(source, LiveSource):
        return {}
    layers = layers_of(pipe, config)
    seen = observed_stages(pipe, source, config, watched, later)
    return {stage: _keep(drained(seen.pop(stage)), config, layers, stage, folder) for stage in watched}


def missing_stages(pipe: Any, source: CalibrationSource, config: CalibrationConfig, folder: Path) -> list[int | None]:
    """Prepare a folder as `calibrate` does, and return the stages that it lacks.

    Several processes may then share them, by `calibrate_stages`; `calibrate` finds their files.

    Raises:
        UnsupportedModelError, InputError: as `calibrate`.
    """
    if not config.collect:
        return []
    _check(pipe, source, config)
    claim(folder, _settings(pipe, config))
    return [stage for stage in config.keys if not (folder / shard_name(stage or 0)).exists()]


def _check(pipe: Any, source: CalibrationSource, config: CalibrationConfig) -> None:
    check_plain_calls(dense_denoiser_of(pipe), "Calibration")
    if "importance" in config.collect:
        target_source(source)


def calibrate_stage(
    pipe: Any, source: CalibrationSource, config: CalibrationConfig, stage: int | None, folder: Path | None
) -> Mapping[str, Tensor]:
    """Collect the statistics of one stage: layer by layer to its file, unless that is there already.

    Args:
        pipe: As for `calibrate`, which has checked it.
        source: As for `calibrate`.
        config: As for `calibrate`.
        stage: None for the one set of shared calibration, or of a statistic of the whole run.
        folder: Where the file is kept; None keeps the statistics in memory.

    Raises:
        InputError: the memory limit does not hold even one layer, or the source has no call in the stage.
    """
    layers = layers_of(pipe, config)
    passes = plan_passes(dense_denoiser_of(pipe), layers, config)
    return _keep(_collect(pipe, source, config, stage, passes), config, layers, stage, folder)


def _keep(
    tensors: Iterator[tuple[str, Tensor]],
    config: CalibrationConfig,
    layers: Sequence[Layer],
    stage: int | None,
    folder: Path | None,
) -> Mapping[str, Tensor]:
    """Write the tensors of one set as they come, or gather them in memory; not at all where the file is there."""
    if folder is None:
        return dict(tensors)
    path = folder / shard_name(stage or 0)
    if not path.exists():
        stream_tensors(path, tensor_names(layers, config.collect), tensors)
    return Shard(path)


@dataclass(frozen=True)
class _Settings:
    """What statistics depend on, besides their source."""

    fingerprint: Fingerprint
    stages: StagePlan
    collect: tuple[Statistic, ...]
    shared: bool


def _settings(pipe: Any, config: CalibrationConfig) -> _Settings:
    return _Settings(fingerprint(dense_denoiser_of(pipe)), config.stages, config.collect, config.shared)


def _collect(
    pipe: Any,
    source: CalibrationSource,
    config: CalibrationConfig,
    stage: int | None,
    passes: Sequence[Sequence[Layer]],
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of one set, on the CPU, pass by pass: what has been taken is not kept here."""
    if "importance" in config.collect:
        return _collect_importance(pipe, source, config, passes)
    if "step_weighted_moment" in config.collect:
        return _collect_step_weighted(pipe, source, config, passes)
    return _collect_stage(pipe, source, config, stage, passes)


def _collect_importance(
    pipe: Any, source: CalibrationSource, config: CalibrationConfig, passes: Sequence[Sequence[Layer]]
) -> Iterator[tuple[str, Tensor]]:
    """Find the sampler's timesteps that contribute, then sum their gradients."""
    targets = target_source(source)
    timesteps = tuple(dict.fromkeys(config.stages.timesteps))
    kept = contributing(timesteps, denoising_losses(pipe, targets, timesteps))
    for layers in passes:
        yield from importance(pipe, targets, layers, kept).items()


def _collect_step_weighted(
    pipe: Any, source: CalibrationSource, config: CalibrationConfig, passes: Sequence[Sequence[Layer]]
) -> Iterator[tuple[str, Tensor]]:
    """Collect second moments of every sampler step and yield Σ α_t E[x_t x_tᵀ] / Σ α_t (OBS-Diff, eq. 5)."""
    # Samplers of second order visit a timestep twice; both visits are calls of one step.
    steps = tuple(dict.fromkeys(config.stages.timesteps))
    plan = StagePlan.split(steps, len(steps), int(config.stages.borders[-1]))
    one_step = replace(config, stages=plan, collect=("second_moment",))
    weights = step_weights(len(steps))
    for layers in passes:
        totals: dict[str, Tensor] = {}
        for step, weight in enumerate(track(weights, "Calibrating steps")):
            for name, tensor in _collect_stage(pipe, source, one_step, len(steps) - 1 - step, [layers]):
                share = tensor.double().mul_(weight / sum(weights))
                totals[name] = totals[name].add_(share) if name in totals else share
        while totals:
            name, total = totals.popitem()
            path, _, kind = name.rpartition("/")
            yield f"{path}/{STEP_WEIGHTED}{kind}", total.float()


@torch.no_grad()
def _collect_stage(
    pipe: Any,
    source: CalibrationSource,
    config: CalibrationConfig,
    stage: int | None,
    passes: Sequence[Sequence[Layer]],
) -> Iterator[tuple[str, Tensor]]:
    """Run one stage's calls once per pass; yield the tensors of each pass, on the CPU, and free them one by one."""
    denoiser = denoiser_of(pipe)
    device = next(denoiser.parameters()).device
    for number, layers in enumerate(passes):
        calls = iter(source.calls(pipe, config.stages, stage))
        # Ask before watching: a source may run the model to make its first call, which must not be counted.
        first = next(calls, None)
        if first is None:
            raise no_calls(config.stages, stage)
        with observed(denoiser, layers, config.collect) as accumulators:
            every: Iterator[Call] = chain([first], calls)
            if number == 0 and isinstance(source, CountedSource):
                count = source.num_calls(config.stages, stage) * len(passes)
                what = f"Calibrating {'all stages' if stage is None else f'stage {stage}'}"
                every = announced(every, count, what, device)
            for call in every:
                denoiser(**call)
        yield from drained(accumulators)
