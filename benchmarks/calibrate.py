"""Time and memory of calibration: every statistic on fashion-dit, and second moments on a denoiser of DiT-XL/2's size.

Each is collected from noised latents (random ones: time depends on neither values nor labels) and, but for those that
need a data set, from the model's own denoising runs: once while these are sampled, and once from recorded calls that
are run again, with the same bits. The model of DiT-XL/2's size has random weights and inputs; its Hessians are given
less memory than they need, so that it takes several passes. `cpu_seconds` is the processor time of all threads, which
tells more than the clock where other programs run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from diff_es import zoo
from diff_es.calibration import (
    CalibrationConfig,
    CalibrationSource,
    DatasetSource,
    LiveSource,
    SamplingSource,
    calibrate,
)
from diff_es.calibration.passes import forecast
from diff_es.denoisers import Call, denoiser_of
from diff_es.evaluation.memory import ResidentGauge
from diff_es.pipelines import latent_shape
from diff_es.pruning import pruners
from diff_es.sampling import Requests, SamplerConfig, class_labels
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan
from full_size import MODELS, STEPS, RandomCalls, stored
from results import add_output_option, finish

METHODS = ("obs", "wanda", "layerdrop", "obs-diff", "diff-pruning")


@dataclass(frozen=True)
class Recorded:
    """A sampling source that cannot be watched: its calls are recorded, and run again."""

    source: SamplingSource

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        return self.source.calls(pipe, plan, stage)


class Gauge:
    """Memory that calibration takes on top of what was there: of the GPU's allocator, or of the resident set."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._resident = ResidentGauge()

    def __enter__(self) -> Gauge:
        if self._cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._resident.reset_peak()
        self._before = torch.cuda.memory_allocated(self._device) if self._cuda else self._resident.now()
        self._start = time.perf_counter()
        self._start_cpu = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._device)
        self.seconds = time.perf_counter() - self._start
        self.cpu_seconds = time.process_time() - self._start_cpu
        peak = torch.cuda.max_memory_allocated(self._device) if self._cuda else self._resident.peak()
        self.grown = peak - self._before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=128, help="calibration images of fashion-dit")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stages", type=int, default=10)
    parser.add_argument("--large-limit-gib", type=float, default=2.0, help="for the Hessians of DiT-XL/2's size")
    parser.add_argument("--only", choices=["small", "large"], help="one of the two models")
    add_output_option(parser)
    arguments = parser.parse_args()
    rows = [] if arguments.only == "large" else list(small(arguments))
    if arguments.only != "small":
        rows.append(large(arguments.device, arguments.large_limit_gib))
    names = ("device", "images", "batch_size", "steps", "stages")
    settings = {name: vars(arguments)[name] for name in names}
    finish({"benchmark": "calibrate", "rows": rows, **settings}, arguments.json, arguments.device)


def small(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every statistic on fashion-dit."""
    pipe = zoo.load_pipeline("fashion-dit").to(arguments.device)
    plan = stage_plan(pipe, arguments.stages, arguments.steps)
    sampler = SamplerConfig(arguments.steps)
    requests = Requests.cycle(class_labels(pipe), arguments.images, 0)
    latents = torch.randn(arguments.images, *latent_shape(pipe, {}), generator=torch.Generator().manual_seed(0))
    warm_up = SamplingSource(Requests.cycle(class_labels(pipe), 2, 0), sampler, 2)
    calibrate(pipe, warm_up, CalibrationConfig(plan, ("input_norms",)))
    for method in METHODS:
        config = CalibrationConfig(plan, pruners[method].needs)
        sources: dict[str, CalibrationSource] = {
            "data set": DatasetSource(latents, requests, sampler, arguments.batch_size)
        }
        if method != "diff-pruning":
            sources["recorded"] = Recorded(SamplingSource(requests, sampler, arguments.batch_size))
        if not config.whole_run:
            sources["live"] = SamplingSource(requests, sampler, arguments.batch_size)
        for name, source in sources.items():
            yield {"model": "fashion-dit", "method": method, "source": name, **measure(pipe, source, config)}


def large(device: str, limit_gib: float) -> dict[str, Any]:
    """Second moments of one stage of a denoiser of DiT-XL/2's size."""
    model = MODELS["dit-xl"]
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        denoiser = model.size.build().eval()
    torch.set_default_dtype(torch.float32)
    pipe = model.pipeline(denoiser)
    pipe.scheduler.set_timesteps(STEPS)
    plan = StagePlan.split(tuple(pipe.scheduler.timesteps.tolist()), 1)
    config = CalibrationConfig(plan, ("second_moment",), memory_limit=int(limit_gib * 2**30))
    source = RandomCalls(model.call, device)
    return {"model": model.size.name, "method": "obs", "source": "random calls", **measure(pipe, source, config)}


def measure(pipe: Any, source: CalibrationSource, config: CalibrationConfig) -> dict[str, Any]:
    """Calibrate once; what was predicted, and what it took."""
    sets = 1 if config.whole_run or config.shared else config.stages.num_stages
    predicted = forecast(pipe, config, sets=sets, live=isinstance(source, LiveSource))
    denoiser, calls = denoiser_of(pipe), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = denoiser.register_forward_pre_hook(count)
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        with Gauge(next(denoiser.parameters()).device) as gauge:
            calibrate(pipe, source, config, Path(folder))
        disk = stored(Path(folder))
    handle.remove()
    return {
        "predicted": asdict(predicted),
        "memory_limit": config.memory_limit,
        "seconds": round(gauge.seconds, 3),
        "cpu_seconds": round(gauge.cpu_seconds, 3),
        "denoiser_calls": calls,
        "memory_grown_bytes": gauge.grown,
        "stored_bytes": disk,
    }


if __name__ == "__main__":
    main()
