"""Device memory of a denoiser of a published size: dense, routed in each memory mode, and stitched.

One setting after the other, each on a model of its own. On a GPU the allocator's peak is read; on a CPU each setting
runs in a process of its own, whose resident set is read. With --predict nothing is run: what the weights take in each
mode is computed from their shapes.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from functools import partial
from typing import Any, cast

import torch

from diff_es.baselines.stitching import stitch_
from diff_es.denoisers import denoiser_of
from diff_es.evaluation.memory import ResidentGauge
from diff_es.routing import Mode, apply_
from diff_es.routing.sizes import weight_bytes
from diff_es.schedule import PruningSchedule
from inference import runner
from random_models import MODELS, RandomModel, RandomPruning, schedule_of
from results import add_device_option, add_output_option, finish, keep_so_far

SETTINGS = ("dense", "resident", "stream", "gather", "stitched")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--schedule", choices=("ramp", "uniform"), default="ramp")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--predict", action="store_true")
    add_device_option(parser)
    add_output_option(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    model = MODELS[arguments.model]
    numbers: dict[str, Any] = {"model": model.name, "dtype": arguments.dtype, "schedule": arguments.schedule}
    if arguments.predict:
        found = predict(model, arguments, device)
        finish({"benchmark": "memory_predicted", **numbers, "weight_bytes": found}, arguments.json, arguments.device)
        return
    peaks: dict[str, dict[str, Any]] = {}
    numbers |= {"batch_size": arguments.batch_size, "settings": peaks}
    for setting in sorted(arguments.settings, key=lambda setting: setting != "dense"):
        alone = device.type == "cpu" and len(arguments.settings) > 1
        own = in_own_process(setting) if alone else measure(model, setting, arguments, device)
        peaks[setting] = own
        if "dense" in peaks:
            own["peak_over_dense"] = own["peak_bytes"] / peaks["dense"]["peak_bytes"]
            print(f"{setting:>9}: {own['peak_bytes'] / 2**30:.2f} GiB, {own['peak_over_dense']:.2f} of dense")
        keep_so_far({"benchmark": "memory", **numbers}, arguments.json, arguments.device)
    finish({"benchmark": "memory", **numbers}, arguments.json, arguments.device)


def predict(model: RandomModel, arguments: argparse.Namespace, device: torch.device) -> dict[str, int]:
    """Bytes of the denoiser's weights, dense and in each memory mode."""
    pipe = model.build(device, getattr(torch, arguments.dtype))
    source = RandomPruning(denoiser_of(pipe), model.plan(pipe), model.levels)
    dense = sum(parameter.nbytes for parameter in denoiser_of(pipe).parameters())
    needed = weight_bytes(denoiser_of(pipe), source, schedule_of(source, arguments.schedule))
    found: dict[str, int] = {"dense": dense} | {str(mode): own for mode, own in needed.items()}
    for mode, own in found.items():
        print(f"{mode:>9}: {own / 2**30:.2f} GiB, {own / dense:.2f} of dense")
    return found


def in_own_process(setting: str) -> dict[str, Any]:
    """Run this program once more for one setting."""
    command = [sys.executable, sys.argv[0], *without_json(sys.argv[1:]), "--settings", setting]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1])["settings"][setting]
    return {name: value for name, value in found.items() if name != "peak_over_dense"}


def without_json(arguments: list[str]) -> list[str]:
    """The arguments without the file that the whole result goes to."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json")
    return parser.parse_known_args(arguments)[1]


@torch.no_grad()
def measure(model: RandomModel, setting: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Peak of two denoising runs, once everything is loaded."""
    gc.collect()  # the model that was measured before
    gauge = ResidentGauge()
    before = gauge.now() if device.type == "cpu" else 0
    dtype = getattr(torch, arguments.dtype)
    pipe = model.build(device, dtype)
    plan = model.plan(pipe)
    pipe.vae = None if setting != "stitched" else pipe.vae  # stitching calls the pipeline once
    source = RandomPruning(denoiser_of(pipe), plan, model.levels)
    schedule = schedule_of(source, arguments.schedule)
    predicted = {str(mode): own for mode, own in weight_bytes(denoiser_of(pipe), source, schedule).items()}
    calls = model.calls(plan, arguments.batch_size, device, dtype)
    _, loading = peak_of(partial(load, pipe, source, schedule, setting), device, gauge)
    pipe.vae = None
    del source
    gc.collect()
    loaded, peak = peak_of(lambda: [runner(pipe, calls)() for _ in range(2)], device, gauge)
    return {
        "loaded_bytes": loaded - before,
        "loading_peak_bytes": loading - before,
        "peak_bytes": peak - before,
        "predicted_weight_bytes": predicted.get(setting),
    }


def load(pipe: Any, source: RandomPruning, schedule: PruningSchedule, setting: str) -> None:
    """Turn the dense pipeline into what is measured."""
    if setting == "stitched":
        stitch_(pipe, source, schedule)
    elif setting != "dense":
        apply_(pipe, source, schedule, mode=cast("Mode", setting))


def peak_of(run: Any, device: torch.device, gauge: ResidentGauge) -> tuple[int, int]:
    """Bytes before and at the peak of a run."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        loaded = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return loaded, torch.cuda.max_memory_allocated(device)
    gauge.reset_peak()
    loaded = gauge.now()
    run()
    return loaded, gauge.peak()


if __name__ == "__main__":
    main()
