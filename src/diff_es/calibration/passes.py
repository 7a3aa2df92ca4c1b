"""How calibration fits its memory: layers per pass, stages at once, and what that takes, told before it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from diff_es.calibration.statistics import MOMENTS, Statistic, bytes_needed
from diff_es.denoisers import Layer, dense_denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.progress import in_bytes, in_time

if TYPE_CHECKING:
    from torch import nn

    from diff_es.calibration.collect import CalibrationConfig

T = TypeVar("T")
logger = logging.getLogger(__name__)
#: A forecast of less is not worth a line.
_WORTH_SAYING = 30.0


@dataclass(frozen=True)
class Forecast:
    """What calibration will take.

    Attributes:
        sets: Sets of statistics to collect: one per stage, or one for all.
        live: How many of them are collected while the source samples, in one run.
        passes: Runs over the inputs of each other set.
        bytes_at_once: Memory for sums, or gradients, at any time, at most; on the denoiser's device.
        disk_bytes: All sets, stored.
    """

    sets: int
    live: int
    passes: int
    bytes_at_once: int
    disk_bytes: int

    def __str__(self) -> str:
        rest = self.sets - self.live
        ways = [f"{self.live} while sampling once"] * bool(self.live)
        ways += [f"{rest} in {self.passes} {'pass' if self.passes == 1 else 'passes'} over its inputs each"] * bool(
            rest
        )
        sizes = f"{in_bytes(self.bytes_at_once)} of memory for sums at once, {in_bytes(self.disk_bytes)} stored"
        return f"Calibration of {self.sets} {'set' if self.sets == 1 else 'sets'}: {', '.join(ways)}; {sizes}."


def forecast(pipe: Any, config: CalibrationConfig, *, sets: int, live: bool) -> Forecast:
    """Predict from shapes alone; nothing is run.

    Args:
        pipe: The dense pipeline.
        config: What is collected, and within which memory.
        sets: How many sets are missing.
        live: Whether the source can be watched while it samples.

    Raises:
        InputError: the memory limit does not hold even one layer.
    """
    denoiser = dense_denoiser_of(pipe)
    layers = layers_of(pipe, config)
    passes = [
        sum(_held(denoiser, layer, config.collect) for layer in part) for part in plan_passes(denoiser, layers, config)
    ]
    needed = sum(passes)
    fitting = config.memory_limit // needed if needed else sets
    at_once = min(sets, fitting) if live and not config.whole_run else 0
    return Forecast(
        sets=sets,
        live=at_once,
        passes=len(passes),
        bytes_at_once=max(at_once * needed, max(passes) if at_once < sets else 0),
        disk_bytes=sets * sum(size for layer in layers for size in stored_bytes(denoiser, layer, config.collect)),
    )


def layers_of(pipe: Any, config: CalibrationConfig) -> tuple[Layer, ...]:
    """Return the layers that the wanted statistics speak of."""
    denoiser = dense_denoiser_of(pipe)
    spec = spec_of(denoiser)
    width = spec.width_layers(denoiser) if set(config.collect) - {"similarity"} else ()
    return width + (spec.blocks(denoiser) if "similarity" in config.collect else ())


def plan_passes(denoiser: nn.Module, layers: Sequence[Layer], config: CalibrationConfig) -> list[list[Layer]]:
    """Cut the layers into runs whose second moments, or gradients, fit the memory limit together.

    Raises:
        InputError: it does not hold even one layer.
    """
    passes: list[list[Layer]] = [[]]
    used = 0
    for layer in layers:
        needed = _held(denoiser, layer, config.collect)
        if needed > config.memory_limit:
            raise InputError(
                f"memory_limit={config.memory_limit} bytes is too small: {layer.name} alone needs {needed} bytes."
            )
        if used + needed > config.memory_limit:
            passes.append([])
            used = 0
        passes[-1].append(layer)
        used += needed
    return passes


def _held(denoiser: nn.Module, layer: Layer, collect: Sequence[Statistic]) -> int:
    """The device memory that a layer takes while its statistics accumulate, where that is much."""
    if "importance" in collect:
        linears = (denoiser.get_submodule(path) for path in (*layer.inputs, *layer.outputs))
        return sum(4 * parameter.numel() for linear in linears for parameter in linear.parameters())
    if layer.kind == "block" or MOMENTS.isdisjoint(collect):
        return 0
    # The weighted sum over steps is as large as the sum of one step; it is kept in host memory.
    beside = "step_weighted_moment" in collect and next(denoiser.parameters()).device.type == "cpu"
    return bytes_needed(denoiser, layer) * (2 if beside else 1)


def stored_bytes(denoiser: nn.Module, layer: Layer, collect: Collection[Statistic]) -> Iterator[int]:
    """Yield the bytes of each tensor that calibration keeps of a layer in one stage, float32."""

    def shape(path: str) -> torch.Size:
        return denoiser.get_parameter(f"{path}.weight").shape

    if layer.kind == "block":
        yield from [4] * ("similarity" in collect)
        return
    if not MOMENTS.isdisjoint(collect):
        for columns in (shape(path)[1] for path in layer.outputs):
            yield from (4 * columns**2, 4 * columns, 4)
    if "input_norms" in collect:
        yield from (4 * shape(path)[1] for path in layer.scored)
    if "importance" in collect:
        yield from (4 * shape(path)[0] for path in layer.inputs)
        yield from (4 * shape(path)[1] for path in layer.outputs)


def announced(calls: Iterable[T], count: int, what: str, device: torch.device) -> Iterator[T]:
    """Yield the calls; when the first one has been run, log how long so many will take, if that is long.

    Args:
        calls: What is run one by one by whoever asks for it.
        count: How many calls there will be in all.
        what: The beginning of the line.
        device: Where they are run; a GPU is waited for, once, since it is still at work when the call returns.
    """
    start = time.perf_counter()
    for index, call in enumerate(calls):
        yield call
        if index == 0:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
            if seconds * count >= _WORTH_SAYING:
                logger.info(
                    "%s: %d calls of the denoiser, about %s by the first one.", what, count, in_time(seconds * count)
                )
