"""Latency of routed models against dense ones, alternating, in every way in which they can be run.

python benchmarks/inference.py runs/demo                        # whole pipeline calls of a run's schedules
python benchmarks/inference.py dit-s                            # denoiser calls of a published size, random weights
python benchmarks/inference.py dit-xl --device cuda --dtype float16 --ways eager graphs compiled compiled-graphs
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diff_es.baselines.stitching import stitch_
from diff_es.denoisers import any_denoiser_of, count_macs, denoiser_of
from diff_es.evaluation import DENSE, Cost, describe_speedup, speedup
from diff_es.evaluation.latency import Contender, LatencyRecord, measure_latency, routing_contender
from diff_es.recipe import Recipe
from diff_es.routing import Compiled, Router, compiled, install_, remove_
from diff_es.run import Session
from diff_es.run.measure import Bench, Contestant
from random_models import MODELS, RandomModel, RandomPruning, schedule_of
from results import add_device_option, add_output_option, finish, keep_so_far

#: How a denoiser is run → what `compile_` is given; None for plain PyTorch.
WAYS: dict[str, tuple[Compiled, bool] | None] = {
    "eager": None,
    "compiled": ("denoiser", False),
    "compiled-blocks": ("blocks", False),
    "graphs": ("nothing", True),
    "compiled-graphs": ("denoiser", True),
    "compiled-blocks-graphs": ("blocks", True),
}
SIDES = ("dense", "routed", "gather-in-forward", "stitched")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help=f"a run directory, or a size with random weights: {', '.join(MODELS)}")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["eager"], help="of a size: how the denoiser is run")
    parser.add_argument("--pruning", choices=("width", "blocks"), default="width", help="of a size: what is removed")
    parser.add_argument("--steps", type=int, help="of a size; at least one per stage")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="of a size; eager has all")
    parser.add_argument(
        "--schedule", choices=("ramp", "uniform"), default="ramp", help="of a size; both take away half"
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of a size")
    add_device_option(parser)
    add_output_option(parser)
    arguments = parser.parse_args()
    if arguments.target in MODELS:
        model = MODELS[arguments.target]
        numbers = measure_size(replace(model, steps=arguments.steps or model.steps), arguments)
    else:
        numbers = measure_run(Path(arguments.target), tuple(arguments.batch_sizes), arguments.repeats)
    finish({"benchmark": "inference", **numbers}, arguments.json, arguments.device)


def measure_run(folder: Path, batch_sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Whole pipeline calls: dense, uniform levels, and what the run's search has found."""
    session = Session(Recipe.read(folder / "recipe.yaml"), folder)
    searched = session.schedule(session.recipe.search.allocation)
    uniform = session.bank.uniform_allocation().resolve(session.space.uniform())
    entries = (
        Contestant(DENSE, ""),
        Contestant("uniform", "", uniform, session.bank),
        Contestant("searched", "", searched, session.bank),
    )
    plans = {entry.name: session.plan for entry in entries}
    bench = Bench(session.pipe, session.sampler, None)
    costs = bench.costs(entries, plans, batch_sizes, repeats, scopes=("pipeline",))
    macs = {name: cost.macs_ratio for name, cost in costs.items() if name != DENSE}
    rows = [run_row(costs, size) for size in batch_sizes]
    router = Router(denoiser_of(session.pipe), session.bank)
    router.set_schedule(uniform)
    return {"macs_ratio": macs, "rows": rows, "stage_switch_ms": switch_ms(session.pipe, router)}


def run_row(costs: dict[str, Cost], size: int) -> dict[str, object]:
    """Times of whole pipeline calls at one batch size."""
    times = {name: cost.latency_of(size) for name, cost in costs.items()}
    values: dict[str, object] = {"batch_size": size}
    for name, record in times.items():
        values[name] = {key: value for key, value in asdict(record).items() if key.endswith("_ms")}
        if name != DENSE:
            gain = speedup(times[DENSE], record)
            values |= {f"{name}_speedup": gain, f"{name}_in_words": describe_speedup(gain)}
    return values


@torch.no_grad()
def measure_size(model: RandomModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """Denoiser calls of a denoising run, divided by their number."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    pipe = model.build(device, dtype)
    plan = model.plan(pipe)
    source = RandomPruning(denoiser_of(pipe), plan, model.levels, depth=arguments.pruning == "blocks")
    schedule = schedule_of(source, arguments.schedule)
    router = Router(denoiser_of(pipe), source)
    router.set_schedule(schedule)
    print(f"{model.name}: levels {schedule.levels} of {model.levels}", flush=True)
    rows: list[dict[str, Any]] = []
    numbers = {
        "model": model.name,
        "pruning": arguments.pruning,
        "dtype": arguments.dtype,
        "levels": list(schedule.levels),
        "num_levels": model.levels,
        "macs_ratio": (ratio := macs_ratio(router, model.calls(plan, 1, device, dtype)[0])),
        "rows": rows,
        "stage_switch_ms": switch_ms(pipe, router),
    }
    for way in arguments.ways:
        own = sides(pipe, source, schedule, arguments.sides if way == "eager" else [DENSE, "routed"])
        settings = WAYS[way]
        started = time.perf_counter()
        with nullcontext() if settings is None else compiled(pipe, settings[0], cuda_graphs=settings[1]):
            for size in arguments.batch_sizes:
                run = runner(pipe, model.calls(plan, size, device, dtype))
                times = measure_latency(
                    dict.fromkeys(own, run), repeats=arguments.repeats, device=device, within=own, warmup=2
                )
                rows += size_rows({"way": way, "batch_size": size}, times, len(plan.timesteps), ratio)
                print(*rows[-len(times) :], sep="\n", flush=True)
                keep_so_far({"benchmark": "inference", **numbers}, arguments.json, arguments.device)
        print(f"{way}: {time.perf_counter() - started:.0f} s", flush=True)
    return numbers


def runner(pipe: Any, calls: list[dict[str, Any]]) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        denoiser = denoiser_of(pipe)
        for call in calls:
            denoiser(**call)

    return run


def sides(pipe: Any, source: RandomPruning, schedule: Any, names: list[str]) -> dict[str, Contender]:
    """What alternates: the pipeline in several states."""
    makers: dict[str, Callable[[], Contender]] = {
        "dense": lambda: nullcontext,
        "routed": lambda: routing_contender(pipe, source, schedule),
        "gather-in-forward": lambda: gathering_contender(pipe, source, schedule),
        "stitched": lambda: stitched_contender(pipe, source, schedule),
    }
    return {name: makers[name]() for name in names}


def gathering_contender(pipe: Any, source: RandomPruning, schedule: Any) -> Contender:
    """Rows and columns are cut out of the dense weights at every call, once, as the paper's own code does it."""
    denoiser = denoiser_of(pipe)
    router = Router(denoiser, source, "gather")
    router.set_schedule(schedule)

    @contextmanager
    def contender() -> Iterator[None]:
        install_(denoiser, router)
        handle = denoiser.register_forward_pre_hook(lambda *_: forget_stage(router), prepend=True)
        try:
            yield
        finally:
            handle.remove()
            remove_(pipe)

    return contender


def forget_stage(router: Router) -> None:
    """Have the router enter the next call's stage anew."""
    router.stage = None


def stitched_contender(pipe: Any, source: RandomPruning, schedule: Any) -> Contender:
    """One pruned model per stage, all in memory."""
    name, dense = any_denoiser_of(pipe)
    stitched = stitch_(pipe, source, schedule)
    setattr(pipe, name, dense)

    @contextmanager
    def contender() -> Iterator[None]:
        setattr(pipe, name, stitched)
        try:
            yield
        finally:
            setattr(pipe, name, dense)

    return contender


def size_rows(where: dict[str, Any], times: dict[str, LatencyRecord], calls: int, macs: float) -> list[dict[str, Any]]:
    """All sides at one batch size: milliseconds of a denoiser call, and what is gained over dense."""
    rows = []
    for name, record in times.items():
        row = {**where, "side": name}
        row |= {key: getattr(record, key) / calls for key in ("median_ms", "p10_ms", "p90_ms")}
        if name != DENSE:
            gain = speedup(times[DENSE], record)
            row |= {"speedup": gain, "share_of_macs_ratio": gain * macs}
        rows.append(row)
    return rows


def macs_ratio(router: Router, call: dict[str, Any]) -> float:
    """MACs of the routed denoising run over the dense one's."""
    plan = router.source.plan
    denoiser = router.denoiser
    router.point_at(None)
    dense = count_macs(denoiser, call) * len(plan.timesteps)
    total = 0
    for stage, steps in enumerate(plan.steps_per_stage):
        router.point_at(stage)
        total += steps * count_macs(denoiser, call)
    router.point_at(None)
    return total / dense


@torch.no_grad()
def switch_ms(pipe: Any, router: Router, repeats: int = 200) -> float:
    """Median time, on the host, of a stage switch: from the call's timestep to the last pointer."""
    plan = router.source.plan
    firsts = [plan.stage_of_step.index(stage) for stage in range(plan.num_stages)]
    name = router.spec.timestep_argument
    units = router.spec.units(router.denoiser)
    calls = [{name: units.from_train(torch.tensor(plan.timesteps[first]))} for first in firsts]
    install_(router.denoiser, router)
    times = []
    for turn in range(repeats + plan.num_stages):
        call = calls[-1 - turn % plan.num_stages]
        start = time.perf_counter()
        router.on_call((), call)
        times.append((time.perf_counter() - start) * 1e3)
    remove_(pipe)
    return median(times[plan.num_stages :])


if __name__ == "__main__":
    main()
