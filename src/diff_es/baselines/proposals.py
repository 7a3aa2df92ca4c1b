"""A search written as a generator: it yields batches of schedules and is sent their fitness.

The generator holds nothing but the idea of an algorithm. Everything that the contract of `ScheduleSearch` asks for
besides is done here: each schedule is asked at most once (one that is yielded again is answered from memory and costs
nothing), the number of evaluations is kept, candidates get their place, generations are written down.

A generator may yield schedules that do not meet the budget, where it learns from them: greedy and stagewise-dp do.
They are evaluated and count as evaluations, but only schedules of the space can become `best` and stand in the history.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from diff_es.baselines.config import BaselineConfig
from diff_es.errors import InputError
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import Candidate, FitnessSummary, GenerationRecord, Scored

#: Yields schedules, is sent the fitness of each of them, returns when it knows nothing more to try. The first batch
#: must hold a schedule of the space; a batch may be cut where the evaluations run out, which ends the search.
Proposals: TypeAlias = Generator[Sequence[Levels], Mapping[Levels, float], Any]


class ProposalSearch:
    """A generator of proposals as a search algorithm (`ScheduleSearch`); deterministic where the generator is."""

    def __init__(self, space: ScheduleSpace, proposals: Proposals, config: BaselineConfig) -> None:
        """Take the first proposals.

        Args:
            space: The schedules that count.
            proposals: The algorithm.
            config: Number of evaluations, and what a generation of the history is.

        Raises:
            InputError: the first batch holds no schedule that meets the budget.
        """
        self.space = space
        self.config = config
        self.max_evaluations = config.evaluations
        self._proposals = proposals
        self._batch: list[Levels] = []
        self._asked: list[Candidate] = []
        self._fitness: dict[Levels, float] = {}
        self._waiting: dict[Levels, Candidate] = {}
        self._recorded = 0
        self._population: tuple[Scored, ...] = ()
        self._history: list[GenerationRecord] = []
        self._propose()
        if not any(space.contains(levels) for levels in self._waiting):
            raise InputError("proposals: the first batch must hold a schedule that meets the budget.")

    @property
    def done(self) -> bool:
        """Whether the evaluations are used up, or the generator has returned."""
        return not self._waiting

    @property
    def best(self) -> Scored:
        """The best schedule of the finished generations that meets the budget.

        Raises:
            InputError: the first generation has not been told yet.
        """
        if not self._population:
            raise InputError("The search has no best schedule yet: tell it the fitness of the first generation.")
        return self._population[0]

    @property
    def race(self) -> None:
        """None: every schedule is scored on all probes."""

    @property
    def history(self) -> tuple[GenerationRecord, ...]:
        """One record per finished generation; the population is the best `survivors` schedules so far."""
        return tuple(self._history)

    def ask(self) -> list[Candidate]:
        """Return the candidates of the current batch whose fitness has not been told."""
        return list(self._waiting.values())

    def tell(self, results: Iterable[tuple[Candidate, float]]) -> None:
        """Take fitness values, in any order and any portions; the last one of a batch brings the next.

        Raises:
            InputError: a candidate is not one of those asked for.
        """
        for candidate, fitness in results:
            if self._waiting.get(candidate.levels) != candidate:
                raise InputError(f"{candidate} does not wait for a fitness; tell each candidate of ask() once.")
            del self._waiting[candidate.levels]
            self._fitness[candidate.levels] = float(fitness)
            if not self._waiting:
                self._propose()
            while members := self._finished_generation():
                self._record(members)

    def _propose(self) -> None:
        """Take batches until one holds something new, the evaluations are used up or the generator returns."""
        while not self._waiting and len(self._asked) < self.config.evaluations:
            try:
                if self._asked:
                    batch = self._proposals.send({levels: self._fitness[levels] for levels in self._batch})
                else:
                    batch = next(self._proposals)
            except StopIteration:
                return
            self._batch = list(dict.fromkeys(batch))
            new = [levels for levels in self._batch if levels not in self._fitness]
            for levels in new[: self.config.evaluations - len(self._asked)]:
                self._waiting[levels] = Candidate(levels, *self.config.place(len(self._asked)))
                self._asked.append(self._waiting[levels])

    def _finished_generation(self) -> list[Candidate]:
        """Return the candidates of the generation that comes next in the history; empty until all have been told."""
        generation = len(self._history)
        members = [candidate for candidate in self._asked[self._recorded :] if candidate.generation == generation]
        complete = self.config.place(self._recorded + len(members))[0] > generation or self.done
        told = all(candidate.levels in self._fitness for candidate in members)
        return members if complete and told else []

    def _record(self, members: list[Candidate]) -> None:
        """Write one generation down."""
        scored = [Scored(candidate, self._fitness[candidate.levels]) for candidate in members]
        valid = [member for member in scored if self.space.contains(member.levels)]
        ranked = sorted((*self._population, *valid), key=lambda member: member.rank)
        self._population = tuple(ranked[: self.config.survivors])
        self._recorded += len(members)
        record = GenerationRecord(
            generation=len(self._history),
            evaluated=self._recorded,
            best=self.best.fitness,
            best_levels=self.best.levels,
            population=FitnessSummary.of(self._population),
            offspring=FitnessSummary.of(valid),
        )
        self._history.append(record)


def usable(fitness: float) -> float:
    """Return the fitness as a number that compares: NaN, like −inf, loses against everything."""
    return fitness if fitness > -math.inf else -math.inf


def fittest(told: Mapping[Levels, float]) -> Levels:
    """Return the schedule of highest fitness; of equal ones that with the smaller levels."""
    return min(told, key=lambda levels: (-usable(told[levels]), levels))
