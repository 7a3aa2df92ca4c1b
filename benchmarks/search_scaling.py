"""How much faster is a search with more workers, and is what it finds the same?

Runs one search with 1, 2 and 4 Ray workers of one thread each, in turns, and times the search alone: the workers are
open and have scored one schedule before the clock starts. What that took is reported beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diff_es.execution import RayWorkers, Task
from diff_es.recipe import Recipe, shipped
from diff_es.run import Session
from diff_es.run.tasks import Score
from diff_es.run.workers import OpenSession
from diff_es.search import Candidate, Trial
from diff_es.search.journal import read_entries
from results import add_output_option, finish


@dataclass(frozen=True)
class Search:
    """One timed search.

    Attributes:
        workers: Number of workers.
        seconds: Of the search alone.
        start_seconds: Until all workers were open and had scored one schedule.
        busy_share: Share of the workers' time in which they scored something; the rest is waiting.
        candidates: Schedules that were scored.
        denoiser_calls: Denoiser calls that were run, on all workers together; replay saves fewer on more workers.
        journal: What `Journal.canonical` gives.
    """

    workers: int
    seconds: float
    start_seconds: float
    busy_share: float
    candidates: int
    denoiser_calls: int
    journal: list[Any]


def main() -> None:
    arguments = parse()
    changes = {"device": arguments.device, "search.allocation": "uniform", "search.generations": arguments.generations}
    probes = {"search.probes": arguments.probes, "search.batch_size": arguments.probes}
    recipe = Recipe.read(shipped("demo"), {**changes, **probes, "model": arguments.model})
    load = os.getloadavg()[0]
    assert Session(recipe, arguments.folder).bank  # made once, in this process
    searches = [
        search(recipe, arguments.folder, count) for _ in range(arguments.repeats) for count in arguments.workers
    ]
    finish(
        {"benchmark": "search_scaling", **summary(searches), **settings(arguments), "load_before": load},
        arguments.json,
        arguments.device,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--model", default="zoo:fashion-dit")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with a GPU for each worker")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2, help="searches with each number of workers, in turns")
    parser.add_argument("--folder", type=Path, default=Path("runs/search-scaling"), help="where the bank is kept")
    add_output_option(parser)
    return parser.parse_args()


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: vars(arguments)[name] for name in ("model", "device", "generations", "probes", "repeats")}


def search(recipe: Recipe, stock: Path, count: int) -> Search:
    """Search once with some workers, into a folder that is not kept."""
    with TemporaryDirectory() as folder:
        session = Session(recipe, Path(folder), stock=stock)
        session.check()
        began = time.perf_counter()
        gpus = session.device.type == "cuda"
        with RayWorkers(count).start(OpenSession.of(session, threads=1), gpus=gpus) as session.workers:
            session.workers.wait_open()
            dense = Trial(Candidate((0,) * session.plan.num_stages, 0, 0))
            warm = Score("uniform", dense)
            assert (
                len(list(session.workers.run([Task(f"warm-up {n}", "warm-up", warm) for n in range(count)]))) == count
            )
            start = time.perf_counter()
            session.search("uniform")
            seconds = time.perf_counter() - start
        entries = read_entries(Path(folder) / "search" / "uniform" / "journal.jsonl")
    calls = sum(entry.outcome.denoiser_calls for entry in entries)
    busy = sum(entry.seconds for entry in entries) / (count * seconds)
    found = Search(count, seconds, start - began, busy, len(entries), calls, sorted(entry.key for entry in entries))
    print(f"{count} workers: {seconds:.1f} s, {busy:.0%} busy, {calls} denoiser calls for {len(entries)} schedules")
    return found


def summary(searches: list[Search]) -> dict[str, Any]:
    """Medians by number of workers, how much faster than with one, and whether all found the same."""
    counts = sorted({one.workers for one in searches})
    times = {count: statistics.median(one.seconds for one in searches if one.workers == count) for count in counts}
    return {
        "seconds": times,
        "times_faster": {count: times[counts[0]] / seconds for count, seconds in times.items()},
        "same_journal": all(one.journal == searches[0].journal for one in searches),
        "searches": [{name: value for name, value in asdict(one).items() if name != "journal"} for one in searches],
        "threads_per_worker": 1,
        "processors": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
