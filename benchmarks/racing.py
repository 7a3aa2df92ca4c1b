"""Does racing pay? Searches with and without it, on the same probes, from the same seeds.

Each seed draws a search and its probes. A schedule's scores do not depend on how it was found, so the search without
racing is run for real, and those with racing take its scores wherever they ask for the same schedule; what only they
ask for is scored for real too. Denoiser calls are counted as replay with enough memory runs them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diff_es.fitness import TrajectoryFitness
from diff_es.recipe import Recipe
from diff_es.run import Session
from diff_es.schedule import Allocation, Levels
from diff_es.search import (
    EvolutionConfig,
    Journal,
    JournalHeader,
    Outcome,
    Racing,
    Rival,
    SearchResult,
    search_schedule,
)
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/candidate-cost"), help="where the bank is kept")
    parser.add_argument("--scores", type=Path, default=Path("runs/racing"), help="journals, to go on if stopped")
    parser.add_argument("--allocation", default="sensitivity")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--margins", type=float, nargs="+", required=True)
    parser.add_argument("--first", type=int, nargs="+", default=[4], help="probes scored before a candidate may leave")
    parser.add_argument("--generations", type=int, default=12)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    add_output_option(parser)
    arguments = parser.parse_args()
    races = [Racing(first, margin) for first in arguments.first for margin in arguments.margins]
    rows = []
    for seed in arguments.seeds:
        bench = _bench(arguments, seed)
        full = bench.search(None)
        for racing in races:
            rows.append({"seed": seed, "first": racing.first, "margin": racing.margin} | compare(full, bench, racing))
            print(rows[-1], flush=True)
    about = {"allocation": arguments.allocation, "generations": arguments.generations, "probes": arguments.probes}
    about |= {"batch_size": arguments.batch_size, "summary": [summary(rows, racing) for racing in races]}
    finish({"benchmark": "racing", **about, "rows": rows}, arguments.json)


def _bench(arguments: argparse.Namespace, seed: int) -> Bench:
    search = {"seed": seed, "generations": arguments.generations, "probes": arguments.probes}
    recipe = Recipe.parse(
        {
            "model": "zoo:fashion-dit",
            "device": "cpu",
            "calibration": {"samples": 256},
            "search": {**search, "batch_size": arguments.batch_size},
        }
    )
    session = Session(recipe, arguments.folder)
    allocation = session.allocation(arguments.allocation)
    table = ScoreTable(session.fitness(arguments.allocation), arguments.batch_size)
    path = arguments.scores / f"{arguments.allocation}-{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Scores of another bank or other probes must not be taken for this one's.
    shards = " ".join(file.sha256 for file in session.bank.info.files)
    behind = f"racing benchmark, {session.search_probes()}, {session.sampler}, bank {shards}"
    return Bench(session, table, allocation, JournalHeader(behind, session.space, session.evolution), path)


@dataclass
class ScoreTable:
    """Scores of schedules, measured when first asked for."""

    fitness: TrajectoryFitness
    batch_size: int
    scores: dict[Levels, Outcome] = field(default_factory=dict)

    def __call__(self, levels: Levels) -> Outcome:
        """Return the outcome of a schedule that is scored on all probes."""
        if levels not in self.scores:
            self.scores[levels] = self.fitness(levels)
        return self.scores[levels]

    def raced(self, levels: Levels, rival: Rival) -> Outcome:
        """Return what `TrajectoryFitness` returns of a candidate that runs against a rival."""
        whole = self(levels)
        for count in range(self.batch_size, len(whole.scores), self.batch_size):
            estimate = rival.estimate(whole.scores[:count])
            if estimate is not None:
                return Outcome(estimate, scores=whole.scores[:count], dropped=True)
        return whole


@dataclass
class Calls:
    """Denoiser calls that replay does not save, with memory for all outputs."""

    allocation: Allocation
    per_stage: tuple[int, ...]
    batch_size: int
    run: int = 0
    known: set[tuple[tuple[Levels, ...], int]] = field(default_factory=set)

    def count(self, levels: Levels, probes: int) -> None:
        """Count the calls of a schedule on its first probes."""
        rows = self.allocation.resolve(levels).layer_levels
        for batch in range(-(-probes // self.batch_size)):
            for stage, calls in enumerate(self.per_stage):
                if (rows[stage:], batch) not in self.known:
                    self.known.add((rows[stage:], batch))
                    self.run += calls


@dataclass(frozen=True)
class Searched:
    """What a search found and what it took.

    Attributes:
        result: Its result.
        calls: Denoiser calls run.
        outcomes: What it was told of each schedule.
    """

    result: SearchResult
    calls: int
    outcomes: dict[Levels, Outcome]


@dataclass(frozen=True)
class Bench:
    """One seed's searches."""

    session: Session
    table: ScoreTable
    allocation: Allocation
    header: JournalHeader
    path: Path

    def search(self, racing: Racing | None) -> Searched:
        """Search with or without racing."""
        config: EvolutionConfig = replace(self.session.evolution, racing=racing)
        calls = Calls(self.allocation, self.session.space.calls, self.table.batch_size)
        outcomes: dict[Levels, Outcome] = {}

        def fitness(levels: Levels, rival: Rival | None = None) -> Outcome:
            outcomes[levels] = self.table(levels) if rival is None else self.table.raced(levels, rival)
            calls.count(levels, len(outcomes[levels].scores))
            return outcomes[levels]

        if racing is None:
            self._measure_all(config)
        return Searched(search_schedule(fitness, self.session.space, config), calls.run, outcomes)

    def _measure_all(self, config: EvolutionConfig) -> None:
        """Search without racing for real, with a journal, so that a benchmark that is stopped goes on."""
        with Journal(self.path, self.header) as journal:
            self.table.scores |= {entry.candidate.levels: entry.outcome for entry in journal.entries()}
            search_schedule(self.table, self.session.space, config, journal)


def compare(full: Searched, bench: Bench, racing: Racing) -> dict[str, Any]:
    """Search with racing and set the two side by side."""
    raced = bench.search(racing)
    dropped = [levels for levels, outcome in raced.outcomes.items() if outcome.dropped]
    best = bench.table(raced.result.levels)
    return {
        "evaluated": raced.result.evaluated,
        "dropped": len(dropped),
        "calls_without": full.calls,
        "calls_with": raced.calls,
        "calls_ratio": raced.calls / full.calls,
        "fitness_without": full.result.fitness,
        "fitness_with": best.fitness,
        "same_schedule": raced.result.levels == full.result.levels,
        "same_way": raced.outcomes.keys() == full.outcomes.keys(),
    }


def summary(rows: list[dict[str, Any]], racing: Racing) -> dict[str, Any]:
    """Means over the seeds for one setting."""
    own = [row for row in rows if (row["first"], row["margin"]) == (racing.first, racing.margin)]
    differences = [row["fitness_with"] - row["fitness_without"] for row in own]
    return {
        "first": racing.first,
        "margin": racing.margin,
        "calls_ratio": float(np.mean([row["calls_ratio"] for row in own])),
        "dropped": float(np.mean([row["dropped"] / row["evaluated"] for row in own])),
        "fitness_difference": float(np.mean(differences)),
        "worst_fitness_difference": min(differences),
        "same_schedule": sum(row["same_schedule"] for row in own),
        "seeds": len(own),
    }


if __name__ == "__main__":
    main()
