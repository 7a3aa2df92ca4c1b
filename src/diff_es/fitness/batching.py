"""How many probes to sample at once: the fewest with which a probe takes hardly longer than in the fastest batch.

Fewer at once take less memory and let a race end sooner, so a larger batch must be worth it. One step tells the time,
and not the memory: decoding a batch of images may need more. So the choice is tried in a whole run. And the search will
have less memory than the dense model alone: what it keeps beside that is taken away for the trial.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from diff_es.calibration import first_step
from diff_es.denoisers import dense_denoiser_of, on_device
from diff_es.errors import InputError, is_out_of_memory
from diff_es.fitness.result import run

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers import Call
    from diff_es.sampling import ImageRequests, SamplerConfig

_TIMES = 3


@dataclass(frozen=True)
class BatchChoice:
    """A batch size, and what it was chosen from.

    Attributes:
        batch_size: Probes per run of the pipeline; a whole run of as many fits into memory.
        seconds_per_probe: Batch size → seconds that one step of the dense denoiser takes for one probe.
    """

    batch_size: int
    seconds_per_probe: dict[int, float]


def choose_batch_size(pipe: Any, probes: ImageRequests, sampler: SamplerConfig, occupied_bytes: int = 0) -> BatchChoice:
    """Time one step of the dense denoiser at batch sizes of 1, 2, 4, … and all probes; try the choice in a whole run.

    Args:
        pipe: The dense pipeline.
        probes: What schedules are scored on.
        sampler: Steps and guidance.
        occupied_bytes: Device memory that the search takes beside the dense model, see `bytes_beside_dense`. Nothing on
            a CPU, whose memory is no reason for a smaller batch.

    Raises:
        InputError: not even one probe fits into the device's memory.
    """
    denoiser = dense_denoiser_of(pipe)
    device = next(denoiser.parameters()).device

    def batch(size: int) -> ImageRequests:
        batches: list[ImageRequests] = list(probes.batches(size))
        return batches[0]

    def seconds(size: int) -> float:
        calls = [on_device(call, device) for call in first_step(pipe, batch(size), sampler)]
        return _seconds(denoiser, calls, device) / size

    with _occupied(occupied_bytes, torch.device(pipe._execution_device)):
        choice = best_of(_sizes(len(probes)), seconds)
        return largest_that_runs(choice, lambda size: run(pipe, batch(size), sampler, device=None))


@contextmanager
def _occupied(size: int, device: torch.device) -> Iterator[None]:
    """Occupy so many bytes of a GPU while the context lasts."""
    try:
        held = torch.empty(0 if device.type == "cpu" else size, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"search.batch_size=auto: the {size / 2**30:.2f} GiB that the search keeps beside the dense model are not "
            f"free ({error}); end what else uses the device, or give a batch size."
        ) from error
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()


def best_of(sizes: Iterator[int], seconds: Callable[[int], float], tolerance: float = 0.05) -> BatchChoice:
    """Choose the smallest size whose time per probe is within a share of the least.

    Args:
        sizes: Candidates, ascending. The first that does not fit into memory ends them.
        seconds: Size → seconds per probe.
        tolerance: That share.

    Raises:
        InputError: the first size does not fit.
    """
    known: dict[int, float] = {}
    for size in sizes:
        try:
            known[size] = seconds(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not known:
                raise _too_large(size, error) from error
            break
    most = min(known.values()) * (1 + tolerance)
    return BatchChoice(next(size for size, value in known.items() if value <= most), known)


def largest_that_runs(choice: BatchChoice, try_out: Callable[[int], object]) -> BatchChoice:
    """Return the choice, or the next smaller known size that does not run out of memory.

    Args:
        choice: What the times speak for.
        try_out: Runs a batch of that size from start to end.

    Raises:
        InputError: not even the smallest size fits.
    """
    sizes = sorted(size for size in choice.seconds_per_probe if size <= choice.batch_size)
    while True:
        size = sizes.pop()
        try:
            try_out(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not sizes:
                raise _too_large(size, error) from error
        else:
            return replace(choice, batch_size=size)


def _too_large(size: int, error: Exception) -> InputError:
    return InputError(
        f"search.batch_size=auto: not even {size} probe fits into the device's memory ({error}); use a smaller dtype, "
        "or a smaller size of images."
    )


def _sizes(count: int) -> Iterator[int]:
    """Powers of two below a number, and the number itself."""
    size = 1
    while size < count:
        yield size
        size *= 2
    yield count


@torch.no_grad()
def _seconds(denoiser: nn.Module, calls: list[Call], device: torch.device) -> float:
    """Median time of a step, after one that is not timed."""
    times = []
    for _ in range(1 + _TIMES):
        start = time.perf_counter()
        for call in calls:
            denoiser(**call)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
