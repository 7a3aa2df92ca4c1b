"""Latency of the routed model against dense, alternating, at several batch sizes; and the cost of a stage switch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from diff_es.calibration import record_calls
from diff_es.denoisers import count_macs, denoiser_of
from diff_es.evaluation import describe_speedup, measure_latency, speedup
from diff_es.recipe import Recipe
from diff_es.routing import Router, install_, remove_
from diff_es.run import Session
from diff_es.sampling import Requests, class_labels, sample
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=20)
    add_output_option(parser)
    arguments = parser.parse_args()
    session = Session(Recipe.read(arguments.run / "recipe.yaml"), arguments.run)
    uniform = session.bank.uniform_allocation().resolve(session.space.uniform())
    schedules = {"uniform": uniform, "searched": session.schedule(session.recipe.search.allocation)}
    denoiser = denoiser_of(session.pipe)
    routers = {name: Router(denoiser, session.bank) for name in schedules}
    for name, router in routers.items():
        router.set_schedule(schedules[name])
    rows = [measure(session, routers, size, arguments.repeats) for size in arguments.batch_sizes]
    macs = {name: macs_ratio(session, router) for name, router in routers.items()}
    numbers = {"benchmark": "inference", "macs_ratio": macs, "rows": rows}
    finish(numbers | {"stage_switch_ms": switch_ms(routers["uniform"])}, arguments.json)


def measure(session: Session, routers: dict[str, Router], size: int, repeats: int) -> dict[str, object]:
    """Time the whole pipeline, dense and routed, alternating."""
    requests = Requests.cycle(class_labels(session.pipe), size, 0)

    def dense() -> None:
        sample(session.pipe, requests, session.sampler)

    def routed(router: Router) -> None:
        install_(denoiser_of(session.pipe), router)
        try:
            dense()
        finally:
            remove_(session.pipe)

    sides = {"dense": dense} | {name: lambda router=router: routed(router) for name, router in routers.items()}
    times = measure_latency(sides, repeats=repeats)
    row: dict[str, object] = {"batch_size": size}
    for name, record in times.items():
        row[name] = {"median_ms": record.median_ms, "p10_ms": record.p10_ms, "p90_ms": record.p90_ms}
        if name != "dense":
            gain = speedup(times["dense"], record)
            row[f"{name}_speedup"] = gain
            row[f"{name}_in_words"] = describe_speedup(gain)
    return row


def macs_ratio(session: Session, router: Router) -> float:
    """Multiply-adds of all denoiser calls of one image, routed over dense."""
    denoiser = denoiser_of(session.pipe)
    calls = [call for _, call in record_calls(session.pipe, Requests((0,), (0,)), session.sampler)]
    dense = sum(count_macs(denoiser, call) for call in calls)
    install_(denoiser, router)
    try:
        return sum(count_macs(denoiser, call) for call in calls) / dense
    finally:
        remove_(session.pipe)


@torch.no_grad()
def switch_ms(router: Router, repeats: int = 200) -> float:
    """Median time of pointing the denoiser at another stage."""
    times = []
    for turn in range(repeats):
        start = time.perf_counter()
        router.point_at(turn % router.source.plan.num_stages)
        times.append((time.perf_counter() - start) * 1e3)
    router.point_at(None)
    return median(times)


if __name__ == "__main__":
    main()
