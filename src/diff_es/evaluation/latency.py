"""Measured latency: the only thing that Diff-ES calls a speed-up.

Sides are measured alternately within one run, so that a change of clock or load meets all of them alike, and in turn
from the first and from the last, so that none always runs on a cache its predecessor has warmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from diff_es.errors import InputError
from diff_es.evaluation.environment import device_name
from diff_es.progress import track


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


def measure_latency(
    sides: Mapping[str, Callable[[], None]],
    *,
    repeats: int = 20,
    warmup: int = 3,
    device: torch.device | None = None,
) -> dict[str, LatencyRecord]:
    """Time several callables against each other within one run.

    Args:
        sides: Name → what to time; each runs `warmup + repeats` times.
        repeats: Timed runs of each side, at least 1; fewer than 10 give percentiles of little worth.
        warmup: Runs of each side before any is timed.
        device: Where the sides run; by default the GPU if there is one, else the CPU.

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
            elapsed = _time_once(sides[name], where)
            if turn >= 0:
                times[name].append(elapsed)
    return {name: _summarise(values, warmup, where) for name, values in times.items()}


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
