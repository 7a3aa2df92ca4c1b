"""Prune a denoiser of a published size for real, and hold the predicted sizes and memory against it.

The weights are random, and so are the calibration inputs, of a small image: sizes, and the time of the solver, depend
on neither. Everything else is what `diff-es run` does: calibrate within a memory limit, build the bank, write both.

With --limit-gb the whole process, the model and the libraries included, must stay below so many GB (10^9 bytes): the
Hessians get what the model and a reserve for one layer's work leave, and the exit code is 1 where it took more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTPipeline, EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import nn

from diff_es.calibration import CalibrationConfig, calibrate
from diff_es.denoisers import Call, on_device, spec_of
from diff_es.evaluation.memory import ResidentGauge
from diff_es.pruning import BankConfig, build_bank, pruners
from diff_es.run.footprint import footprint
from diff_es.stages import StagePlan
from real_sizes import SIZES, Size
from results import add_output_option, finish

STEPS = 20
CALLS = 4
GAUGE = ResidentGauge()
#: What one layer's work takes beside the Hessians that accumulate: activations, the product of a batch, a sum on its
#: way to the disk.
RESERVE = 10**9
#: Least that Hessians are given: the largest layer of DiT-XL takes 0.17 GB.
LEAST = 10**8


@dataclass(frozen=True)
class Model:
    """A size that can be built with weights, in a pipeline without encoders and VAE."""

    size: Size
    pipeline: Callable[[nn.Module], Any]
    call: Callable[[float], Call]


def dit_pipeline(denoiser: nn.Module) -> Any:
    return DiTPipeline(transformer=denoiser, vae=None, scheduler=EulerDiscreteScheduler())


def sdxl_pipeline(denoiser: nn.Module) -> Any:
    nothing = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return StableDiffusionXLPipeline(unet=denoiser, scheduler=EulerDiscreteScheduler(), **nothing)


def dit_inputs(timestep: float) -> Call:
    return {
        "hidden_states": torch.randn(4, 4, 32, 32).bfloat16(),
        "timestep": torch.full((4,), timestep),
        "class_labels": torch.randint(0, 1000, (4,)),
    }


def sdxl_inputs(timestep: float) -> Call:
    """Two images of 256 × 256."""
    return {
        "sample": torch.randn(2, 4, 32, 32).bfloat16(),
        "timestep": torch.tensor(timestep),
        "encoder_hidden_states": torch.randn(2, 77, 2048).bfloat16(),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, 1280).bfloat16(),
            "time_ids": torch.full((2, 6), 256.0).bfloat16(),
        },
    }


MODELS = {"dit-xl": Model(SIZES[0], dit_pipeline, dit_inputs), "sdxl": Model(SIZES[1], sdxl_pipeline, sdxl_inputs)}


@dataclass(frozen=True)
class RandomCalls:
    """Calibration inputs of noise, at timesteps of the stage."""

    call: Callable[[float], Call]
    device: str = "cpu"

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:  # noqa: ARG002 (the protocol's)
        timesteps = [t for t, own in zip(plan.timesteps, plan.stage_of_step, strict=True) if stage in (None, own)]
        torch.manual_seed(0)
        for index in range(CALLS):
            yield on_device(self.call(timesteps[index * len(timesteps) // CALLS]), self.device)

    def num_calls(self, plan: StagePlan, stage: int | None) -> int:  # noqa: ARG002 (the protocol's)
        return CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="sdxl")
    parser.add_argument("--method", choices=["obs", "wanda", "layerdrop"], default="obs")
    parser.add_argument("--stages", type=int, default=10, help="of the plan; SDXL is calibrated once for all")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--memory-limit-gib", type=float, default=2.0, help="for the Hessians at once")
    limit.add_argument("--limit-gb", type=float, help="for the whole process, in GB; exit code 1 above it")
    add_output_option(parser)
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    hessians = int(arguments.memory_limit_gib * 2**30)
    with tempfile.TemporaryDirectory(prefix="full_size-") as folder:
        numbers = measure(model, arguments.method, arguments.stages, (hessians, arguments.limit_gb), Path(folder))
    finish({"benchmark": "full_size", **numbers}, arguments.json)
    if arguments.limit_gb:
        sys.exit(_verdict(numbers["peak_gb"], arguments.limit_gb))


def _verdict(used: float, limit: float) -> int:
    """Say what was used; return the exit code."""
    print(f"{used:.2f} GB of {limit:g} GB used: {'within' if used <= limit else 'ABOVE'} the limit", file=sys.stderr)
    return int(used > limit)


def measure(model: Model, method: str, stages: int, limits: tuple[int, float | None], folder: Path) -> dict[str, Any]:
    """Calibrate and build the bank.

    Args:
        limits: Bytes for the Hessians; GB for the whole process, which has precedence.
    """
    size = model.size
    torch.set_default_dtype(torch.bfloat16)
    denoiser = size.build().eval()
    torch.set_default_dtype(torch.float32)
    pipe = model.pipeline(denoiser)
    layers = spec_of(denoiser).layers(denoiser, blocks=pruners[method].depth)
    predicted = footprint(denoiser, layers, method=method, num_levels=size.levels, stages=stages, shared=size.shared)
    print(predicted, flush=True)
    pipe.scheduler.set_timesteps(STEPS)
    plan = StagePlan.split(tuple(pipe.scheduler.timesteps.tolist()), stages)
    collect = pruners[method].needs
    before, loading_peak = GAUGE.now(), GAUGE.peak()
    hessians, limit_gb = limits
    if limit_gb:
        hessians = max(LEAST, int(limit_gb * 1e9) - before - RESERVE)
    config = CalibrationConfig(plan, collect, shared=size.shared, memory_limit=hessians)
    with Watch() as calibration:
        stats = calibrate(pipe, RandomCalls(model.call), config, folder / "calibration")
    with Watch() as building:
        build_bank(pipe, stats, plan, BankConfig(method, size.levels), folder / "bank")
    real = {"calibration_bytes": stored(folder / "calibration"), "bank_bytes": stored(folder / "bank")}
    return {
        "model": size.name,
        "method": method,
        "stages": stages,
        "shared": size.shared,
        "levels": size.levels,
        "dtype": "bfloat16",
        "predicted": asdict(predicted),
        "real": real,
        "real_over_predicted": {name: value / getattr(predicted, name) for name, value in real.items()},
        "memory_limit_gib": round(hessians / 2**30, 3),
        "limit_gb": limit_gb,
        "peak_gb": max(loading_peak, calibration.peak_resident_bytes, building.peak_resident_bytes) / 1e9,
        "model_resident_bytes": before,
        "calibration": asdict(calibration),
        "bank": asdict(building),
    }


@dataclass
class Watch:
    """Seconds, and the largest resident memory of the process, while the context lasts."""

    seconds: float = 0.0
    peak_resident_bytes: int = 0

    def __enter__(self) -> Watch:
        GAUGE.reset_peak()
        self.seconds = -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.peak_resident_bytes = GAUGE.peak()
        print(self, flush=True)


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
