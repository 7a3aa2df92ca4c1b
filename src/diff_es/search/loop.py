"""Run a search: ask, measure, write down, tell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search.base import Candidate, GenerationRecord, Outcome, ScheduleSearch
from diff_es.search.evolution import EvolutionarySearch, EvolutionConfig
from diff_es.search.journal import Journal, JournalEntry, JournalHeader

#: Hours of NaN would end in an arbitrary schedule, so a search stops at once where nothing works.
_WAY_OUT = "Check the metric and the model's dtype (float16 overflows to NaN), or lower the sparsity."

#: Measures a schedule; higher is better.
Fitness: TypeAlias = Callable[[Levels], Outcome | float]


@dataclass(frozen=True)
class SearchResult:
    """What a search found; equal for an uninterrupted and for a resumed search.

    Attributes:
        levels: The best schedule, stage 0 first.
        fitness: Its fitness, higher is better.
        history: One record per generation, the start population's first.
        evaluated: Different schedules evaluated.
        seed: The seed of the search.
    """

    levels: Levels
    fitness: float
    history: tuple[GenerationRecord, ...]
    evaluated: int
    seed: int


def search_schedule(  # noqa: PLR0913
    fitness: Fitness,
    space: ScheduleSpace,
    config: EvolutionConfig,
    journal: Journal | None = None,
    on_generation: Callable[[GenerationRecord], None] | None = None,
    *,
    starts: Sequence[Levels] = (),
) -> SearchResult:
    """Find the schedule with the highest fitness by level-switch evolution.

    Args:
        fitness: Measures one schedule. It must be a function of the levels alone; NaN means unusable.
        space: The schedules to search in.
        config: Settings of the evolution.
        journal: Where to write evaluations, and to take those from that an earlier run left.
        on_generation: Called with the record of each finished generation, also of those replayed from the journal.
        starts: Schedules to start from besides those of `config.starts`.

    Raises:
        InputError: the journal was opened for another search, or the fitness of every start is NaN or −inf.
    """
    if journal is not None:
        mine = JournalHeader(journal.header.fingerprint, space, config, tuple(map(tuple, starts)))
        if mine.as_json() != journal.header.as_json():
            raise InputError("journal: it was opened with another space, config or starts than the search is given.")
    algorithm = EvolutionarySearch(space, config, starts)
    return search_with(algorithm, fitness, journal, on_generation, seed=config.seed)


def search_with(
    algorithm: ScheduleSearch,
    fitness: Fitness,
    journal: Journal | None = None,
    on_generation: Callable[[GenerationRecord], None] | None = None,
    *,
    seed: int,
) -> SearchResult:
    """Find the schedule with the highest fitness by any algorithm.

    Args:
        algorithm: A search that has not been told anything.
        fitness: Measures one schedule. It must be a function of the levels alone; NaN means unusable.
        journal: Where to write evaluations, and to take those from that an earlier run left. Its header must name
            the algorithm and its settings.
        on_generation: Called with the record of each finished generation, also of those replayed from the journal.
        seed: The seed that the algorithm was made with, for the result.

    Raises:
        InputError: the fitness of every schedule is NaN or −inf.
    """
    run_search(algorithm, fitness, journal, on_generation)
    best = algorithm.best
    return SearchResult(best.levels, best.fitness, tuple(algorithm.history), algorithm.history[-1].evaluated, seed)


def run_search(
    algorithm: ScheduleSearch,
    fitness: Fitness,
    journal: Journal | None = None,
    on_generation: Callable[[GenerationRecord], None] | None = None,
) -> None:
    """Run any search algorithm to its end.

    Args:
        algorithm: What proposes schedules; told all results.
        fitness: Measures one schedule, higher is better.
        journal: Where evaluations are kept.
        on_generation: Called with the record of each finished generation.

    Raises:
        InputError: the fitness of every schedule of the first generation, or of every one that meets the budget, is
            NaN or −inf.
    """
    reported, usable = 0, False
    for candidate in track(_candidates(algorithm), "Searching schedules", total=algorithm.max_evaluations):
        value = _measure(candidate, fitness, journal)
        usable = usable or value > -math.inf
        algorithm.tell([(candidate, value)])
        for record in algorithm.history[reported:]:
            reported += 1
            if not usable:
                raise InputError(
                    f"fitness: all {record.evaluated} schedules of generation {record.generation} got NaN or −inf. "
                    f"{_WAY_OUT}"
                )
            if on_generation is not None:
                on_generation(record)
    if not algorithm.best.usable:
        raise InputError(f"fitness: every schedule that meets the budget got NaN or −inf. {_WAY_OUT}")


def _candidates(algorithm: ScheduleSearch) -> Iterator[Candidate]:
    while not algorithm.done:
        yield from algorithm.ask()


def _measure(candidate: Candidate, fitness: Fitness, journal: Journal | None) -> float:
    """Return the journal's fitness of a candidate, else measure it and write it down."""
    known = journal.replayed(candidate) if journal is not None else None
    if known is not None:
        return known
    start = time.perf_counter()
    measured = fitness(candidate.levels)
    outcome = measured if isinstance(measured, Outcome) else Outcome(measured)
    # Metrics return numpy and torch scalars; the journal holds plain numbers.
    outcome = replace(outcome, fitness=float(outcome.fitness))
    if journal is not None:
        journal.append(JournalEntry(candidate, outcome, time.perf_counter() - start))
    return outcome.fitness
