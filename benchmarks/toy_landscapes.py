"""How often searches find the optimum that brute force knows: families of landscapes, kind and unkind ones.

`--compare` does so for every search algorithm, with as many evaluations as the evolution uses in `--generations`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from typing import Any

from diff_es.baselines import algorithms, settings_for
from diff_es.search import EvolutionConfig, in_process, search_with
from diff_es.stages import StagePlan
from results import ROOT, add_output_option, finish

sys.path.insert(0, str(ROOT / "tests"))
from search.landscapes import FAMILIES, SPACE, Landscape
from search.spaces import all_schedules

#: Six stages of two steps each, for the rule that wants to know timesteps.
PLAN = StagePlan.split(tuple(1000 * (11.5 - step) / 12 for step in range(12)), SPACE.num_stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landscapes", type=int, default=4, help="landscapes of each family")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each landscape")
    parser.add_argument("--generations", type=int, default=EvolutionConfig().generations, help="of the evolution")
    parser.add_argument("--compare", action="store_true", help="every search algorithm, not only the evolution")
    add_output_option(parser)
    arguments = parser.parse_args()
    schedules = list(all_schedules(SPACE))
    names = list(algorithms) if arguments.compare else ["evolution"]
    found: dict[str, dict[str, list[int]]] = {name: {} for name in names}
    gaps: dict[str, dict[str, float]] = {name: {} for name in names}
    for family, make in FAMILIES.items():
        landscapes = [make(index) for index in range(arguments.landscapes)]
        values = [[landscape(levels) for levels in schedules] for landscape in landscapes]
        for name in names:
            missed = [
                [gap(name, landscape, seed, arguments.generations, known) for seed in range(arguments.seeds)]
                for landscape, known in zip(landscapes, values, strict=True)
            ]
            hits, mean = [row.count(0.0) for row in missed], statistics.fmean(one for row in missed for one in row)
            found[name][family], gaps[name][family] = hits, mean
            print(family, name, hits, f"gap {mean:.4f}", flush=True)
    numbers: dict[str, Any] = {"benchmark": "toy_landscapes", "schedules": len(schedules), "seeds": arguments.seeds}
    numbers |= {"generations": arguments.generations, "found": found["evolution"]}
    if arguments.compare:
        numbers |= {"benchmark": "toy_landscapes_compared", "algorithms": found, "mean_gap": gaps}
    finish(numbers, arguments.json)


def gap(name: str, fitness: Landscape, seed: int, generations: int, known: list[float]) -> float:
    """How far the search ends from the optimum, as a share of the way from the median schedule: 0 is found."""
    settings = settings_for(name, SPACE, EvolutionConfig(generations=generations, seed=seed))
    end = search_with(algorithms[name](SPACE, PLAN, settings), in_process(fitness), seed=seed).fitness
    optimum = max(known)
    return 0.0 if math.isclose(end, optimum, abs_tol=1e-12) else (optimum - end) / (optimum - statistics.median(known))


if __name__ == "__main__":
    main()
