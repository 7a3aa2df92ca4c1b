"""What is kept for replay when memory is short: the least recently used outputs, or those of the fittest schedules?

Counts the denoiser calls of whole searches on toy landscapes; nothing is computed but the counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from diff_es.fitness.replay import CallKey, ReplayStore
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import EvolutionConfig, search_schedule
from results import add_output_option, finish

STAGES, LEVELS, CALLS = 10, 16, 2
SPACE = ScheduleSpace((CALLS,) * STAGES, LEVELS, 0.5, (LEVELS,) * STAGES)
#: Every stored output is one byte, so that limits count outputs.
OUTPUT = (torch.zeros(1, dtype=torch.uint8),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--schedules", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="room for the outputs of so many"
    )
    add_output_option(parser)
    arguments = parser.parse_args()
    sizes = [*arguments.schedules, sys.maxsize // (STAGES * CALLS)]
    rows = []
    for size in sizes:
        saved = {
            name: [share_saved(size, seed, arguments.generations, favour=favour) for seed in range(arguments.seeds)]
            for name, favour in (("least_recently_used", False), ("fittest_favoured", True))
        }
        shares = {name: float(np.mean(values)) for name, values in saved.items()}
        rows.append({"room_for_schedules": size if size in arguments.schedules else None, **shares})
        print(rows[-1], flush=True)
    setting = {"stages": STAGES, "calls_per_stage": CALLS, "levels": LEVELS, "generations": arguments.generations}
    finish({"benchmark": "replay_policy", **setting, "seeds": arguments.seeds, "rows": rows}, arguments.json)


def share_saved(room: int, seed: int, generations: int, *, favour: bool) -> float:
    """Run a search and return the share of its denoiser calls that replay saves.

    Args:
        room: How many schedules' outputs the store can hold.
        seed: Of the landscape and of the search.
        generations: Length of the search.
        favour: Whether the store is told how fit the schedules are.
    """
    store, landscape = ReplayStore(room * STAGES * CALLS), coupled(seed)
    run = asked = 0

    def fitness(levels: Levels) -> float:
        nonlocal run, asked
        keys = list(calls(levels))
        asked += len(keys)
        for key in keys:
            if store.get(key) is None:
                run += 1
                store.put(key, OUTPUT)
        value = landscape(levels)
        if favour:
            store.rate(keys, value)
        return value

    search_schedule(fitness, SPACE, EvolutionConfig(generations=generations, seed=seed))
    return 1 - run / asked


def calls(levels: Levels) -> Iterator[CallKey]:
    """Yield the keys of a schedule's calls in sampling order: the last stage comes first."""
    rows = tuple((level,) for level in levels)
    for number, stage in enumerate(stage for stage in reversed(range(STAGES)) for _ in range(CALLS)):
        yield rows[stage:], 0, number


def coupled(seed: int) -> Callable[[Levels], float]:
    """Each stage costs w·x^p of its share x, and damage to neighbouring stages adds up to more than its sum."""
    rng = np.random.default_rng(seed)
    weights, powers, pairs = rng.uniform(0.2, 3, STAGES), rng.uniform(1.2, 2.5, STAGES), rng.uniform(0, 3, STAGES - 1)

    def fitness(levels: Levels) -> float:
        x = np.array(levels) / LEVELS
        return -float(np.sum(weights * x**powers) + np.sum(pairs * x[:-1] * x[1:]))

    return fitness


if __name__ == "__main__":
    main()
