"""Latency of the routed model against dense, alternating, at several batch sizes; and the cost of a stage switch."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diff_es.denoisers import denoiser_of
from diff_es.evaluation import Cost, describe_speedup, speedup
from diff_es.recipe import Recipe
from diff_es.routing import Router, install_, remove_
from diff_es.run import Session
from diff_es.run.measure import DENSE, Bench, Contestant
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=20)
    add_output_option(parser)
    arguments = parser.parse_args()
    session = Session(Recipe.read(arguments.run / "recipe.yaml"), arguments.run)
    entries = contestants(session)
    plans = {entry.name: session.plan for entry in entries}
    bench = Bench(session.pipe, session.sampler, None)
    costs = bench.costs(entries, plans, tuple(arguments.batch_sizes), arguments.repeats, scopes=("pipeline",))
    macs = {name: cost.macs_ratio for name, cost in costs.items() if name != DENSE}
    numbers = {"benchmark": "inference", "macs_ratio": macs, "rows": [row(costs, n) for n in arguments.batch_sizes]}
    finish(numbers | {"stage_switch_ms": switch_ms(session)}, arguments.json)


def contestants(session: Session) -> tuple[Contestant, ...]:
    """The dense model, uniform levels, and what the run's search has found."""
    searched = session.schedule(session.recipe.search.allocation)
    return (
        Contestant(DENSE, ""),
        Contestant("uniform", "", uniform(session), session.bank),
        Contestant("searched", "", searched, session.bank),
    )


def uniform(session: Session) -> Any:
    """The same level in every stage and layer."""
    return session.bank.uniform_allocation().resolve(session.space.uniform())


def row(costs: dict[str, Cost], size: int) -> dict[str, object]:
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
def switch_ms(session: Session, repeats: int = 200) -> float:
    """Median time of pointing the denoiser at another stage."""
    router = Router(denoiser_of(session.pipe), session.bank)
    router.set_schedule(uniform(session))
    install_(denoiser_of(session.pipe), router)
    times = []
    for turn in range(repeats):
        start = time.perf_counter()
        router.point_at(turn % router.source.plan.num_stages)
        times.append((time.perf_counter() - start) * 1e3)
    remove_(session.pipe)
    return median(times)


if __name__ == "__main__":
    main()
