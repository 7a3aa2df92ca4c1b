"""Measured memory: what loading a model takes, and the peak while it generates.

Every measurement runs in a Python process of its own: the resident set of one that has lived for a while says little,
because freed memory stays with it. The process gets its task as JSON on standard input and answers with JSON.

Three numbers, because each alone misleads. The bytes of live tensors are exact, but say nothing of buffers. The growth
of the resident set (of the CUDA allocator on a GPU) is what the system sees; on a CPU it counts whole pages, and the
libraries' own buffers blur it by some tens of MiB, which hides a small model. The peak also holds the activations.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from pydantic import TypeAdapter
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from diff_es.bank import Bank, Pruned, ThinSource
from diff_es.errors import ArtifactError, DiffESError, InputError
from diff_es.pipelines import load_pipeline
from diff_es.progress import track
from diff_es.routing import Router, apply_
from diff_es.sampling import SamplerConfig, any_requests, sample
from diff_es.schedule import PruningSchedule
from diff_es.schedulers import with_recorded_scheduler

#: "dense": as it was. "resident", "stream", "gather": routed in that mode ("stream" on a GPU only: on a CPU there is
#: nothing to stream from). "stitched": one full pruned model per stage.
Setting: TypeAlias = Literal["dense", "resident", "stream", "gather", "stitched"]

#: Named, not imported: only the process that measures it may load it, and baselines are no part of evaluation.
_STITCH = "diff_es.baselines.stitching:stitch_"

#: What tracing and compiling leave behind has shapes and no memory.
_WITHOUT_DATA = (FakeTensor, FunctionalTensor)
_PROGRAM = "from diff_es.evaluation.memory import answer; answer()"


@dataclass(frozen=True)
class MemoryRecord:
    """What a model takes, beyond the process that has imported the libraries.

    Attributes:
        loading_bytes: Growth of the resident set (CPU) or of what the CUDA allocator holds (GPU) by loading.
        tensor_bytes: Bytes that live tensors occupy once loaded, each counted once; in "gather" mode with the stage
            whose weights take most.
        peak_bytes: Highest growth while one batch was generated, the loaded model included.
        device: Name of the device type ("cpu", "cuda").
        how: How it was measured, in words.
    """

    loading_bytes: int
    tensor_bytes: int
    peak_bytes: int
    device: str
    how: str


@dataclass(frozen=True)
class MemoryTask:
    """What one process loads and runs.

    Attributes:
        model: "zoo:NAME", a folder, or a Hub id.
        setting: How the schedule is run.
        weights: Folder of the bank or of the artefact.
        schedule: What is pruned; None for an artefact's own.
        sampler: Steps and guidance of the batch that is generated.
        batch_size: Its images, ≥ 1.
        device: "cpu" or "cuda".
    """

    model: str
    setting: Setting
    weights: str
    schedule: PruningSchedule | None
    sampler: SamplerConfig
    batch_size: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"MemoryTask.batch_size={self.batch_size} must be at least 1.")
        kind = self.device.partition(":")[0]
        if kind not in {"cpu", "cuda"} or (kind == "cuda" and not torch.cuda.is_available()):
            raise InputError(f"MemoryTask.device={self.device!r} is no device here; use cpu, or cuda where there is.")


def compare_memory(  # noqa: PLR0913 (facts of the comparison)
    model: str,
    weights: Path,
    schedule: PruningSchedule | None,
    batch_size: int,
    *,
    sampler: SamplerConfig | None = None,
    device: str | None = None,
    settings: Sequence[Setting] | None = None,
) -> dict[Setting, MemoryRecord]:
    """Measure dense, stitched and every memory mode, each in a process of its own, one after the other.

    Args:
        model: "zoo:NAME", a folder, or a Hub id.
        weights: Folder of the bank or of the artefact.
        schedule: What is pruned; None for an artefact's own.
        batch_size: Images of the batch that is generated.
        sampler: Its steps and guidance; by default the artefact's, or the bank's steps with the default guidance.
        device: By default the GPU if there is one, else the CPU.
        settings: Which of them to measure; by default all that the device knows.

    Raises:
        InputError: one of the arguments cannot be used.
        ArtifactError: the weights are damaged.
    """
    source = open_weights(weights)
    steps = source.info.sampler if isinstance(source, Pruned) else SamplerConfig(len(source.plan.timesteps))
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    records: dict[Setting, MemoryRecord] = {}
    known = [setting for setting in get_args(Setting) if setting != "stream" or where != "cpu"]
    for setting in track(known if settings is None else settings, "Measuring memory"):
        task = MemoryTask(model, setting, str(weights), schedule, sampler or steps, batch_size, where)
        records[setting] = measure_memory(task)
    return records


def measure_memory(task: MemoryTask) -> MemoryRecord:
    """Load and run a model in a fresh Python process and return what it took there.

    Raises:
        InputError: the task cannot be done: unknown model, schedule of another bank, no memory figures on this system.
        ArtifactError: the weights are damaged, or the process died (out of memory).
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=TypeAdapter(MemoryTask).dump_json(task),
        capture_output=True,
        check=False,
        # Without these the C library keeps freed weights, and the resident set tells of the past.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ArtifactError(f"Measuring the memory of {task.setting!r} ended with {done.returncode}: {''.join(last)}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise {"ArtifactError": ArtifactError}.get(answer["kind"], InputError)(answer["error"])
    return TypeAdapter(MemoryRecord).validate_python(answer)


def answer() -> None:
    """Do the task on standard input and print its record, or its error, as one line of JSON."""
    try:
        record: Any = TypeAdapter(MemoryRecord).dump_python(_measure_here(_read_task()))
    except DiffESError as error:
        record = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(record))


def _read_task() -> MemoryTask:
    return TypeAdapter(MemoryTask).validate_json(sys.stdin.buffer.read())


def _measure_here(task: MemoryTask) -> MemoryRecord:
    """Measure in this very process, which must be fresh."""
    gauge = _CudaGauge(torch.device(task.device)) if task.device.startswith("cuda") else ResidentGauge()
    tensors_before, before = live_tensor_bytes(), gauge.now()
    pipe = _load(task)
    # Counting collects garbage, so that the gauge sees none.
    tensors, loaded = live_tensor_bytes(), gauge.now()
    gauge.reset_peak()
    sample(pipe, any_requests(pipe, task.batch_size), task.sampler)
    peak = gauge.peak()
    return MemoryRecord(
        loading_bytes=loaded - before,
        tensor_bytes=tensors - tensors_before,
        peak_bytes=peak - before,
        device=task.device,
        how=gauge.how,
    )


def _load(task: MemoryTask) -> Any:
    """Load the pipeline, ready to run."""
    source = open_weights(Path(task.weights))
    pipe = load_pipeline(task.model, source.fingerprint.dtype, task.device)
    if isinstance(source, Pruned) and source.info.scheduler_config is not None:
        pipe = with_recorded_scheduler(pipe, source.info.scheduler, source.info.scheduler_config)
    if task.setting == "dense":
        return pipe
    schedule = task.schedule or _own_schedule(source)
    if task.setting == "stitched":
        pkgutil.resolve_name(_STITCH)(pipe, source, schedule)
    else:
        _point_at_heaviest_stage(apply_(pipe, source, schedule, mode=task.setting))
    return pipe


def _point_at_heaviest_stage(router: Router) -> None:
    """Take the stage whose weights need most: in "gather" mode a dense stage would flatter the figure."""

    def need(stage: int) -> int:
        router.point_at(stage)
        return live_tensor_bytes()

    with torch.no_grad():
        router.point_at(max(range(router.source.plan.num_stages), key=need))


def _own_schedule(source: ThinSource) -> PruningSchedule:
    if isinstance(source, Pruned):
        return source.info.schedule
    raise InputError("schedule=None, but a bank has no schedule of its own; give one, or an artefact.")


def open_weights(folder: Path) -> Bank | Pruned:
    """Open a bank or an artefact, whichever the folder holds.

    Raises:
        ArtifactError: it is neither, incomplete or damaged.
    """
    return Pruned.open(folder) if (folder / "schedule.json").exists() else Bank.open(folder)


def live_tensor_bytes() -> int:
    """Return the bytes that all live tensors of this process occupy, memory that several share counted once.

    A view counts what it shows and not all that it keeps alive: a tensor that was read from a mapped file would stand
    for the whole file.
    """
    gc.collect()
    spans: list[tuple[int, int]] = []
    for found in gc.get_objects():
        # type(), not isinstance(): the latter wakes deprecated proxy objects of torch.
        kind = type(found)
        if not issubclass(kind, torch.Tensor) or issubclass(kind, _WITHOUT_DATA):
            continue
        if found.layout == torch.strided and found.device.type != "meta":
            spans += _span(found)
    return _covered(sorted(spans))


def _span(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """First and last address of a tensor; none for an empty one."""
    if not tensor.numel():
        return []
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    length = (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()
    return [(tensor.data_ptr(), tensor.data_ptr() + length)]


def _covered(spans: list[tuple[int, int]]) -> int:
    """Length of the union of ascending intervals."""
    total, reached = 0, 0
    for start, end in spans:
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


class _CudaGauge:
    """What torch's CUDA allocator has given out on one GPU."""

    how = "torch's CUDA allocator, in a process of its own"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


class ResidentGauge:
    """The resident set of this process, as Linux counts it.

    `resource.getrusage` would not do: the peak that it gives is inherited from the process that started this one.
    """

    how = "resident set of a process of its own (Linux)"

    def now(self) -> int:
        """Bytes that are resident."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most that have been since the peak was reset."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Begin the peak anew."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    @staticmethod
    def _status(name: str) -> int:
        path = Path("/proc/self/status")
        if not path.is_file():
            raise InputError("device='cpu': the resident set is read from /proc, which only Linux has; use a GPU.")
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        kib = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
        return int(kib) * 1024
