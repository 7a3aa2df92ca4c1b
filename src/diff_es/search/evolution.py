"""Level-switch evolutionary search (§3.2 of arXiv 2603.05105).

A generation draws `offspring` children, each from one random survivor by one level switch, and keeps the best
`survivors` of parents and children together. A schedule is evaluated once. One that was seen before either still
survives or lost to schedules that do, so proposing it again cannot change the population: children that were seen
are drawn again `max_redraws` times and then left out, and such a generation has fewer children.

Once every mutation of every survivor has been evaluated the population cannot change any more. The paper's search
would idle until its last generation; this one spends what is left of them on a new population of random
compositions, with the best schedule so far set aside. Until that moment it is the paper's search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diff_es.errors import InputError
from diff_es.registry import suggest
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search.base import Candidate, FitnessSummary, GenerationRecord, Race, Scored
from diff_es.search.racing import Racing
from diff_es.search.starts import START_KINDS, StartKind, draw_unseen, random_composition, start_population


@dataclass(frozen=True)
class EvolutionConfig:
    """Settings of the evolutionary search; the defaults are the paper's.

    Attributes:
        generations: Generations after the start population, 0 or more.
        survivors: Schedules that each generation keeps, 1 or more.
        offspring: Children that each generation draws, 1 or more.
        max_mutation: Δmax, the most levels that one mutation moves, 1 or more.
        seed: Seed of everything random, 0 or more.
        max_redraws: How often a child that was seen before is drawn again before it is left out.
        starts: Kinds of start schedules; "random" fills up to survivors + offspring.
        racing: When offspring are dropped before all probes are scored; None scores all of them. The start
            population and a new one are always scored in full.
    """

    generations: int = 100
    survivors: int = 4
    offspring: int = 16
    max_mutation: int = 5
    seed: int = 0
    max_redraws: int = 20
    starts: tuple[StartKind, ...] = START_KINDS
    racing: Racing | None = None

    def __post_init__(self) -> None:
        least = {"generations": 0, "survivors": 1, "offspring": 1, "max_mutation": 1, "seed": 0, "max_redraws": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"EvolutionConfig.{name}={getattr(self, name)} must be at least {bound}.")
        for kind in self.starts:
            if kind not in START_KINDS:
                raise InputError(f"EvolutionConfig.starts: unknown start {kind!r}: {suggest(kind, START_KINDS)}")


def level_switches(space: ScheduleSpace, levels: Levels, max_mutation: int) -> tuple[Levels, ...]:
    """Return what each possible mutation (i, j, Δ) makes of a schedule; the same schedule may occur twice.

    L_i rises by Δ and L_j falls by Δ (§3.2). Where stage j has another number of denoiser calls than stage i, L_j
    falls by as much as the budget allows, which is Δ for equal calls. Mutations that leave the bounds are absent, so
    a uniform draw from the rest is the draw i ≠ j, Δ ~ U{1…Δmax} repeated until it fits.

    Args:
        space: The budget and the bounds.
        levels: A schedule of the space.
        max_mutation: Δmax.
    """
    switched = []
    excess = space.spent(levels) - space.required
    for i, (level, cap) in enumerate(zip(levels, space.max_levels, strict=True)):
        for delta in range(1, min(max_mutation, cap - level) + 1):
            for j in range(len(levels)):
                fall = (excess + delta * space.calls[i]) // space.calls[j]
                if j != i and fall <= levels[j]:
                    child = list(levels)
                    child[i] += delta
                    child[j] -= fall
                    switched.append(tuple(child))
    return tuple(switched)


class EvolutionarySearch:
    """The search as an ask/tell object; it ends after `generations`, or earlier where nothing new turns up.

    Nothing of it needs saving: told the fitness values of a journal again, it takes the same way again.
    """

    def __init__(self, space: ScheduleSpace, config: EvolutionConfig, starts: Sequence[Levels] = ()) -> None:
        """Draw the start population.

        Args:
            space: The schedules to search in.
            config: Settings.
            starts: Schedules to start from besides those of `config.starts`.

        Raises:
            InputError: a start does not fit the space, or there is none.
        """
        size = config.survivors + config.offspring
        first = start_population(space, config.starts, size, config.seed, starts)
        self.space = space
        self.config = config
        self._switches = lru_cache(maxsize=4 * config.survivors)(
            lambda levels: level_switches(space, levels, config.max_mutation)
        )
        self._population: tuple[Scored, ...] = ()
        self._best: Scored | None = None
        self._restarted = False
        self._history: list[GenerationRecord] = []
        self._seen: set[Levels] = set()
        self._told: list[Scored] = []
        self._waiting: dict[Levels, Candidate] = {}
        self._propose({levels: child for child, levels in enumerate(first)})
        self.max_evaluations = len(first) + config.generations * config.offspring

    @property
    def done(self) -> bool:
        """Whether all generations are over, or neither mutations nor random draws found anything new."""
        return not self._waiting

    @property
    def population(self) -> tuple[Scored, ...]:
        """The survivors of the last finished generation, best first."""
        return self._population

    @property
    def best(self) -> Scored:
        """The best schedule of the finished generations.

        Raises:
            InputError: the start population has not been told yet.
        """
        if self._best is None:
            raise InputError("The search has no best schedule yet: tell it the fitness of every start first.")
        return self._best

    @property
    def history(self) -> tuple[GenerationRecord, ...]:
        """One record per finished generation, the start population's first."""
        return tuple(self._history)

    @property
    def race(self) -> Race | None:
        """The survivors, where the waiting candidates are their offspring and have to beat the worst of them.

        With fewer survivors than there is room for, whoever comes next survives whatever its fitness.
        """
        full = len(self._population) == self.config.survivors
        if self.config.racing is None or self._restarted or not full or not self._population[-1].usable:
            return None
        return Race(self._population, self.config.racing)

    def ask(self) -> list[Candidate]:
        """Return the candidates of this generation whose fitness has not been told."""
        return list(self._waiting.values())

    def tell(self, results: Iterable[tuple[Candidate, float]]) -> None:
        """Take fitness values, in any order and any portions; the last one of a generation starts the next.

        Raises:
            InputError: a candidate is not one of those asked for.
        """
        for candidate, fitness in results:
            if self._waiting.get(candidate.levels) != candidate:
                raise InputError(f"{candidate} does not wait for a fitness; tell each candidate of ask() once.")
            del self._waiting[candidate.levels]
            self._told.append(Scored(candidate, float(fitness)))
            if not self._waiting:
                self._select()
                self._breed()

    def _propose(self, children: dict[Levels, int]) -> None:
        """Let this generation's children wait for their fitness."""
        for levels, child in children.items():
            self._seen.add(levels)
            self._waiting[levels] = Candidate(levels, len(self._history), child)

    def _select(self) -> None:
        """Keep the best of parents and children, and write the generation down."""
        parents = () if self._restarted else self._population
        ranked = sorted((*parents, *self._told), key=lambda scored: scored.rank)
        self._population = tuple(ranked[: self.config.survivors])
        best = self._population[0]
        self._best = best if self._best is None else min(self._best, best, key=lambda scored: scored.rank)
        record = GenerationRecord(
            generation=len(self._history),
            evaluated=len(self._seen),
            best=self._best.fitness,
            best_levels=self._best.levels,
            population=FitnessSummary.of(self._population),
            offspring=FitnessSummary.of(self._told),
        )
        self._history.append(record)
        self._told = []

    def _breed(self) -> None:
        """Draw the next generation that holds something new, if any is left."""
        while not self._waiting and len(self._history) <= self.config.generations:
            restart = not self._reaches_new()
            children: dict[Levels, int] = {}
            for child in range(self.config.offspring):
                levels = self._draw(child, children, restart)
                if levels is not None:
                    children[levels] = child
            if restart and not children:
                return  # neither mutations nor random draws find anything new: the space is used up
            self._propose(children)
            self._restarted = restart
            if not children:
                self._select()

    def _reaches_new(self) -> bool:
        return any(child not in self._seen for parent in self._population for child in self._switches(parent.levels))

    def _draw(self, child: int, siblings: dict[Levels, int], restart: bool) -> Levels | None:
        """Draw one child; None where only schedules that were seen before turned up."""
        rng = np.random.default_rng([self.config.seed, len(self._history), child])
        return draw_unseen(
            lambda: random_composition(self.space, rng) if restart else self._mutate(rng),
            1 + self.config.max_redraws,
            self._seen,
            siblings,
        )

    def _mutate(self, rng: np.random.Generator) -> Levels | None:
        """Return one random level switch of one random survivor; None where it has none."""
        switches = self._switches(self._population[rng.integers(len(self._population))].levels)
        return switches[rng.integers(len(switches))] if switches else None
