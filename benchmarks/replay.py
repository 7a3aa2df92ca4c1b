"""Replay: is fitness bitwise the same with and without it, and how many denoiser calls does it save?

Scores random schedules both ways, then runs a whole search and counts calls.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from diff_es.fitness import TrajectoryFitness
from diff_es.recipe import Recipe
from diff_es.run import Session
from diff_es.schedule import Levels
from diff_es.search import EvolutionConfig, Journal, JournalHeader, search_schedule
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory; its bank is used, nothing in it is changed")
    parser.add_argument("--candidates", type=int, default=50, help="random schedules to score both ways")
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--journal", type=Path, default=Path("runs/replay/journal.jsonl"), help="to go on if stopped")
    add_output_option(parser)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.run / "recipe.yaml")
    section = recipe.search.model_copy(update={"probes": arguments.probes, "batch_size": arguments.probes})
    session = Session(recipe.model_copy(update={"search": section}), arguments.run)
    different = compare(session, arguments.candidates)
    numbers = {"benchmark": "replay", "candidates": arguments.candidates, "different_fitness": different}
    finish(numbers | saved(session, arguments.generations, arguments.journal), arguments.json, str(session.device))


def compare(session: Session, count: int) -> int:
    """Score random schedules of the space with and without replay and count those that differ in any bit."""
    with_replay, without = session.fitness("uniform"), fitness_without_replay(session)
    schedules = [random_levels(session, seed) for seed in range(count)]
    return sum(with_replay(levels).fitness != without(levels).fitness for levels in schedules)


def random_levels(session: Session, seed: int) -> Levels:
    wanted = np.random.default_rng(seed).uniform(0, session.space.num_levels, session.space.num_stages)
    return session.space.project(list(wanted))


def fitness_without_replay(session: Session) -> TrajectoryFitness:
    section = session.recipe.search
    return TrajectoryFitness(
        session.pipe,
        session.bank,
        session.search_probes(),
        session.allocation("uniform"),
        metric=section.metric,
        sampler=session.sampler,
        batch_size=session.search_batch_size,
        replay_bytes=0,
    )


def saved(session: Session, generations: int, path: Path) -> dict[str, float]:
    """Run a search with the paper's defaults and count denoiser calls."""
    config = EvolutionConfig(generations=generations, max_mutation=session.recipe.search.max_mutation)
    # Counts of another bank or other probes must not be taken for this run's.
    shards = [file.sha256 for file in session.bank.info.files]
    behind = f"replay benchmark, {session.search_probes()}, {session.sampler}, bank {' '.join(shards)}"
    with Journal(path, JournalHeader(behind, session.space, config)) as journal:
        search_schedule(session.fitness("uniform"), session.space, config, journal)
        outcomes = [entry.outcome for entry in journal.entries()]
    run = sum(outcome.denoiser_calls for outcome in outcomes)
    replayed = sum(outcome.replayed_calls for outcome in outcomes)
    return {
        "generations": generations,
        "evaluated": len(outcomes),
        "denoiser_calls_run": run,
        "denoiser_calls_replayed": replayed,
        "share_saved": replayed / (run + replayed),
    }


if __name__ == "__main__":
    main()
