"""What other accelerators gain on a dense and on a routed model: whole pipeline calls, timed in alternation.

On the shipped models, half of every layer's heads and channels removed in every stage. Which weights are left has no
part in the time, so that they are chosen by magnitude. Each accelerator is measured against the same model without it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch

from diff_es import zoo
from diff_es.calibration import CalibrationStats
from diff_es.denoisers import denoiser_of
from diff_es.evaluation import Contender, LatencyRecord, measure_latency, routing_contender
from diff_es.evaluation.caches import DeepCache, FirstBlockCache
from diff_es.evaluation.cost import count_run
from diff_es.pruning import BankConfig, build_bank
from diff_es.sampling import SamplerConfig, any_requests, sample
from diff_es.schedulers import with_scheduler
from diff_es.timesteps import stage_plan
from results import add_output_option, finish

LEVELS = 8
#: Model → its sampler and its stages.
MODELS: Final = {
    "fashion-sdxl": (SamplerConfig(20, 4.0), 10),
    "fashion-flux": (SamplerConfig(4, 0.0, {"max_sequence_length": 16}), 2),
}

Enabled = Callable[[Any], AbstractContextManager[object]]


@dataclass(frozen=True)
class Setting:
    """One way to run a model.

    Attributes:
        name: What it is called.
        pipe: The dense pipeline.
        sampler: Steps and guidance.
        stages: Number of stages.
        enabled: Puts the accelerator on the pipeline while its context lasts.
    """

    name: str
    pipe: Any
    sampler: SamplerConfig
    stages: int
    enabled: Enabled = nullcontext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    add_output_option(parser)
    arguments = parser.parse_args()
    models = [measure(name, arguments.batch_size, arguments.repeats, arguments.device) for name in arguments.models]
    finish(
        {"benchmark": "accelerators", "batch_size": arguments.batch_size, "models": models},
        arguments.json,
        arguments.device,
    )


def measure(name: str, batch_size: int, repeats: int, device: str) -> dict[str, Any]:
    """Time every setting of one model, dense and routed, all of them in one alternation."""
    sampler, stages = MODELS[name]
    plain = Setting("none", zoo.load_pipeline(name).to(device), sampler, stages)
    settings = (plain, *accelerated(name, plain))
    sides, within, macs = {}, {}, {}
    for setting in settings:
        requests = any_requests(setting.pipe, batch_size)
        for model, contender in models_of(setting).items():
            key = f"{setting.name}/{model}"
            sides[key] = partial(sample_once, setting, requests)
            within[key] = contender
            macs[key] = macs_of(setting, contender)
    times = measure_latency(sides, repeats=repeats, device=torch.device(device), within=within)
    rows = [row(setting.name, times, macs) for setting in settings]
    for line in rows:
        print(name, line, flush=True)
    return {"model": name, "steps": sampler.num_inference_steps, "stages": stages, "levels": LEVELS, "rows": rows}


def accelerated(name: str, plain: Setting) -> Iterator[Setting]:
    """The accelerators that a model can have."""
    if name == "fashion-sdxl":
        fewer = with_scheduler(plain.pipe, "DPMSolverMultistepScheduler", {})
        sampler = replace(plain.sampler, num_inference_steps=10)
        yield replace(plain, name="DPM-Solver++, 10 steps", pipe=fewer, sampler=sampler)
        yield replace(plain, name=str(DeepCache(2)), enabled=DeepCache(2).enabled)
    else:
        cache = FirstBlockCache(1e9)  # reuses wherever it may: the most that it can gain
        yield replace(plain, name="First Block Cache, where it may", enabled=cache.enabled)
    yield replace(plain, name="bfloat16", pipe=copy.deepcopy(plain.pipe).to(torch.bfloat16))
    yield replace(plain, name="torch.compile of the forward", pipe=copy.deepcopy(plain.pipe), enabled=Compiled())


class Compiled:
    """`torch.compile` of the denoiser's forward, compiled once and put back for every run."""

    def __init__(self) -> None:
        self._forward: Any = None

    @contextmanager
    def __call__(self, pipe: Any) -> Iterator[None]:
        denoiser: Any = denoiser_of(pipe)
        if self._forward is None:
            self._forward = torch.compile(denoiser.forward)
        denoiser.forward = self._forward
        try:
            yield
        finally:
            del denoiser.forward


def models_of(setting: Setting) -> dict[str, Contender]:
    """The dense and the routed model under the setting."""
    plan = stage_plan(
        setting.pipe, setting.stages, setting.sampler.num_inference_steps, dict(setting.sampler.arguments)
    )
    stats = CalibrationStats(({},) * setting.stages, setting.stages)
    bank = build_bank(setting.pipe, stats, plan, BankConfig("magnitude", LEVELS))
    schedule = bank.uniform_allocation().resolve((LEVELS // 2,) * setting.stages)
    routed = routing_contender(setting.pipe, bank, schedule)
    return {"dense": partial(together, setting, nullcontext), "routed": partial(together, setting, routed)}


@contextmanager
def together(setting: Setting, model: Contender) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(model())
        stack.enter_context(setting.enabled(setting.pipe))
        yield


def sample_once(setting: Setting, requests: Any) -> None:
    sample(setting.pipe, requests, setting.sampler)


def macs_of(setting: Setting, contender: Contender) -> int | None:
    """Multiply-adds of one image; a compiled graph is not counted operation by operation."""
    if isinstance(setting.enabled, Compiled):
        return None
    plan = stage_plan(
        setting.pipe, setting.stages, setting.sampler.num_inference_steps, dict(setting.sampler.arguments)
    )
    with contender():
        return count_run(setting.pipe, plan, setting.sampler).macs


def row(name: str, times: dict[str, LatencyRecord], macs: dict[str, int | None]) -> dict[str, Any]:
    """Times of a setting, what it gains on each model, and what both gain together."""
    dense, routed = times[f"{name}/dense"], times[f"{name}/routed"]
    return {
        "name": name,
        "dense_ms": [dense.median_ms, dense.p10_ms, dense.p90_ms],
        "routed_ms": [routed.median_ms, routed.p10_ms, routed.p90_ms],
        "gain_on_dense": times["none/dense"].median_ms / dense.median_ms,
        "gain_on_routed": times["none/routed"].median_ms / routed.median_ms,
        "routed_over_dense": dense.median_ms / routed.median_ms,
        "together": times["none/dense"].median_ms / routed.median_ms,
        "macs_dense": macs[f"{name}/dense"],
        "macs_routed": macs[f"{name}/routed"],
    }


if __name__ == "__main__":
    main()
