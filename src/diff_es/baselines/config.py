"""Settings of the baseline searches: as many evaluations as the evolutionary search would use, no more."""

from __future__ import annotations

from dataclasses import dataclass

from diff_es.errors import InputError
from diff_es.schedule import ScheduleSpace
from diff_es.search import EvolutionarySearch, EvolutionConfig


@dataclass(frozen=True)
class BaselineConfig:
    """Settings of a baseline search.

    Attributes:
        evaluations: The most schedules that are evaluated, 1 or more.
        seed: Seed of everything random, 0 or more. Greedy draws hardly anything, stagewise-dp nothing.
        max_mutation: The most levels that one level switch moves, 1 or more (hill-climb and greedy).
        survivors: How many of the best schedules count as the population in the history, 1 or more.
        offspring: Evaluations that make up one generation of the history, 1 or more; the first one has
            survivors + offspring, as that of the evolutionary search. Also how many schedules random and
            stagewise-dp propose at a time.
    """

    evaluations: int
    seed: int = 0
    max_mutation: int = 5
    survivors: int = 4
    offspring: int = 16

    def __post_init__(self) -> None:
        least = {"evaluations": 1, "seed": 0, "max_mutation": 1, "survivors": 1, "offspring": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"BaselineConfig.{name}={getattr(self, name)} must be at least {bound}.")

    @classmethod
    def matching(cls, space: ScheduleSpace, evolution: EvolutionConfig) -> BaselineConfig:
        """Return settings that allow as many evaluations as an evolutionary search would use at most.

        Args:
            space: The schedules to search in.
            evolution: The search to compare with; seed, mutation and population are taken over.
        """
        return cls(
            EvolutionarySearch(space, evolution).max_evaluations,
            evolution.seed,
            evolution.max_mutation,
            evolution.survivors,
            evolution.offspring,
        )

    def place(self, number: int) -> tuple[int, int]:
        """Return generation and child of the schedule that is proposed as the `number`-th, counted from 0."""
        first = self.survivors + self.offspring
        if number < first:
            return 0, number
        generation, child = divmod(number - first, self.offspring)
        return generation + 1, child
