"""Measured latency: the only thing that Diff-ES calls a speed-up.

Sides are measured alternately within one run, so that a change of clock or load meets all of them alike, and in turn
from the first and from the last, so that none always runs on a cache its predecessor has warmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from diff_es.calibration import record_calls
from diff_es.denoisers import denoiser_of, on_device, spec_of
from diff_es.errors import InputError
from diff_es.evaluation.environment import device_name
from diff_es.progress import track
from diff_es.routing import Mode, Router, install_, remove_
from diff_es.sampling import any_requests, sample

if TYPE_CHECKING:
    from diff_es.bank import ThinSource
    from diff_es.denoisers import Call
    from diff_es.sampling import ImageRequests, SamplerConfig
    from diff_es.schedule import PruningSchedule

#: "denoiser": one denoiser call, averaged over a denoising run. "pipeline": a whole call, encoders and VAE included.
Scope: TypeAlias = Literal["denoiser", "pipeline"]

#: Makes the pipeline the model that is measured while its context lasts (`nullcontext` for the dense one).
Contender: TypeAlias = Callable[[], AbstractContextManager[object]]

#: The batch sizes of the paper's Table 10.
BATCH_SIZES = (1, 2, 8, 16, 32)


@dataclass(frozen=True)
class LatencyRecord:
    """How long one side takes.

    Attributes:
        median_ms: Median over the repeats, in milliseconds.
        p10_ms: 10th percentile, in milliseconds.
        p90_ms: 90th percentile, in milliseconds.
        repeats: Timed runs.
        warmup: Runs before them that were not timed.
        device: Name of the GPU, or of the CPU.
        threads: CPU threads of torch.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    repeats: int
    warmup: int
    device: str
    threads: int

    def __post_init__(self) -> None:
        if not 0 < self.p10_ms <= self.median_ms <= self.p90_ms:
            raise InputError(
                f"LatencyRecord needs 0 < p10_ms ≤ median_ms ≤ p90_ms, "
                f"got {self.p10_ms}, {self.median_ms}, {self.p90_ms}."
            )


@dataclass(frozen=True)
class LatencyEntry:
    """How long one call takes at one batch size.

    Attributes:
        batch_size: Images per call, ≥ 1.
        scope: What was timed.
        record: The times.
    """

    batch_size: int
    scope: Scope
    record: LatencyRecord


def measure_latency(
    sides: Mapping[str, Callable[[], None]],
    *,
    repeats: int = 20,
    warmup: int = 3,
    device: torch.device | None = None,
    within: Mapping[str, Contender] | None = None,
) -> dict[str, LatencyRecord]:
    """Time several callables against each other within one run.

    Args:
        sides: Name → what to time; each runs `warmup + repeats` times.
        repeats: Timed runs of each side, at least 1; fewer than 10 give percentiles of little worth.
        warmup: Runs of each side before any is timed.
        device: Where the sides run; by default the GPU if there is one, else the CPU.
        within: Name → context around each run of that side; entering and leaving it is not timed.

    Returns:
        Name → record, in the order of `sides`.

    Raises:
        InputError: no side, or repeats or warmup out of range.
    """
    if not sides or repeats < 1 or warmup < 0:
        raise InputError(f"{len(sides)} sides, repeats={repeats}, warmup={warmup}: need ≥ 1, ≥ 1 and ≥ 0.")
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in track(range(-warmup, repeats), "Measuring latency"):
        for name in sides if turn % 2 == 0 else reversed(list(sides)):
            with within[name]() if within else nullcontext():
                elapsed = _time_once(sides[name], where)
            if turn >= 0:
                times[name].append(elapsed)
    return {name: _summarise(values, warmup, where) for name, values in times.items()}


def measure_batch_sizes(  # noqa: PLR0913 (facts of the measurement)
    pipe: Any,
    contenders: Mapping[str, Contender],
    sampler: SamplerConfig,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    scopes: Sequence[Scope] = ("denoiser", "pipeline"),
    repeats: int = 20,
) -> dict[str, tuple[LatencyEntry, ...]]:
    """Time a pipeline's models against each other at several batch sizes; all alternate within each batch size.

    The time of one denoiser call is that of all calls of a denoising run, stage switches included, divided by their
    number: stages differ in what they cost. Each call has the rows of guidance that the sampler makes.

    Args:
        pipe: The pipeline, dense; it is dense again afterwards.
        contenders: Name → context in which the pipeline is that model; entering and leaving are not timed.
        sampler: Steps and guidance.
        batch_sizes: Images per call, each ≥ 1.
        scopes: What to time.
        repeats: Timed runs of each contender, batch size and scope, after 3 that are not timed.

    Returns:
        Name → one entry per batch size and scope, in their order.

    Raises:
        InputError: no contender, batch size or scope, a batch size below 1, or repeats below 1.
    """
    if not batch_sizes or min(batch_sizes) < 1 or not scopes:
        raise InputError(f"batch_sizes={tuple(batch_sizes)}, scopes={tuple(scopes)}: need at least one each, all ≥ 1.")
    entries: dict[str, list[LatencyEntry]] = {name: [] for name in contenders}
    device = next(denoiser_of(pipe).parameters()).device
    for size in batch_sizes:
        requests = any_requests(pipe, size)
        for scope in scopes:
            run, calls = (_denoiser_run if scope == "denoiser" else _pipeline_run)(pipe, requests, sampler)
            times = measure_latency(dict.fromkeys(contenders, run), repeats=repeats, device=device, within=contenders)
            for name, record in times.items():
                entries[name].append(LatencyEntry(size, scope, _per_call(record, calls)))
    return {name: tuple(own) for name, own in entries.items()}


def routing_contender(pipe: Any, source: ThinSource, schedule: PruningSchedule, mode: Mode = "resident") -> Contender:
    """Return a contender that routes the pipeline by a schedule; its thin weights are cut once, here.

    Args:
        pipe: The pipeline, dense.
        source: The bank or artefact.
        schedule: What to run.
        mode: See `routing.apply_`.
    """
    denoiser = denoiser_of(pipe)
    router = Router(denoiser, source, mode)
    router.set_schedule(schedule)

    @contextmanager
    def contender() -> Iterator[None]:
        install_(denoiser, router)
        try:
            yield
        finally:
            remove_(pipe)

    return contender


def _denoiser_run(pipe: Any, requests: ImageRequests, sampler: SamplerConfig) -> tuple[Callable[[], None], int]:
    """Return what repeats all denoiser calls of one sampling run of the dense model, and their number."""
    denoiser = denoiser_of(pipe)
    device = next(denoiser.parameters()).device
    recorded = [on_device(call, device) for _, call in record_calls(pipe, requests, sampler)]
    calls = _of_one_schedule(recorded, spec_of(denoiser).timestep_argument)

    @torch.no_grad()
    def run() -> None:
        denoiser = denoiser_of(pipe)
        for call in calls:
            denoiser(**call)

    return run, len(calls)


def _of_one_schedule(calls: list[Call], name: str) -> list[Call]:
    """Make the calls' timesteps entries of one tensor, as a pipeline's are: to read others, the device is waited for.

    Args:
        calls: All calls of a run.
        name: The argument that holds the timestep.
    """
    firsts = torch.stack([call[name].flatten()[0] for call in calls])
    if not all(bool((call[name] == first).all()) for call, first in zip(calls, firsts, strict=True)):
        return calls  # each token may have a timestep of its own
    return [{**call, name: first.expand(call[name].shape)} for call, first in zip(calls, firsts, strict=True)]


def _pipeline_run(pipe: Any, requests: ImageRequests, sampler: SamplerConfig) -> tuple[Callable[[], None], int]:
    def run() -> None:
        sample(pipe, requests, sampler)

    return run, 1


def _per_call(record: LatencyRecord, calls: int) -> LatencyRecord:
    shares = {name: getattr(record, name) / calls for name in ("median_ms", "p10_ms", "p90_ms")}
    return replace(record, **shares)


def _time_once(side: Callable[[], None], device: torch.device) -> float:
    """Return milliseconds of one run, from an idle GPU to an idle GPU."""
    _synchronise(device)
    start = time.perf_counter()
    side()
    _synchronise(device)
    return (time.perf_counter() - start) * 1e3


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarise(times: list[float], warmup: int, device: torch.device) -> LatencyRecord:
    p10, median, p90 = (float(value) for value in np.percentile(times, [10, 50, 90]))
    return LatencyRecord(median, p10, p90, len(times), warmup, device_name(device), torch.get_num_threads())


def speedup(dense: LatencyRecord, routed: LatencyRecord) -> float:
    """Return how many times as fast as dense the routed model is, by the medians; below 1 it is slower.

    Raises:
        InputError: the two were measured on different devices or with different numbers of threads.
    """
    if (dense.device, dense.threads) != (routed.device, routed.threads):
        raise InputError(
            f"A speed-up needs one machine: dense ran on {dense.device} ({dense.threads} threads), "
            f"routed on {routed.device} ({routed.threads} threads)."
        )
    return dense.median_ms / routed.median_ms


def describe_speedup(value: float) -> str:
    """Say a speed-up in words; a slow-down is called one.

    Args:
        value: Median latency of dense over that of the routed model, > 0.
    """
    if round(value, 2) == 1:
        return "as fast as dense"
    if value < 1:
        return f"slower than dense ({value:.2f}×)"
    return f"{value:.2f}× as fast as dense"
