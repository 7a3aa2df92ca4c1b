"""How often the search finds the optimum that brute force knows: families of landscapes, kind and unkind ones."""

from __future__ import annotations

import argparse
import math
import sys

from diff_es.search import EvolutionConfig, search_schedule
from results import ROOT, add_output_option, finish

sys.path.insert(0, str(ROOT / "tests"))
from search.landscapes import FAMILIES, SPACE, Landscape
from search.spaces import all_schedules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landscapes", type=int, default=4, help="landscapes of each family")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each landscape")
    add_output_option(parser)
    arguments = parser.parse_args()
    schedules = list(all_schedules(SPACE))
    families = {}
    for name, make in FAMILIES.items():
        families[name] = [found(make(index), schedules, arguments.seeds) for index in range(arguments.landscapes)]
        print(name, families[name], flush=True)
    numbers = {"benchmark": "toy_landscapes", "schedules": len(schedules), "seeds": arguments.seeds}
    finish(numbers | {"generations": EvolutionConfig().generations, "found": families}, arguments.json)


def found(fitness: Landscape, schedules: list[tuple[int, ...]], seeds: int) -> int:
    """Number of seeds whose search ends at the optimum."""
    optimum = max(map(fitness, schedules))
    ends = (search_schedule(fitness, SPACE, EvolutionConfig(seed=seed)).fitness for seed in range(seeds))
    return sum(math.isclose(end, optimum, abs_tol=1e-12) for end in ends)


if __name__ == "__main__":
    main()
