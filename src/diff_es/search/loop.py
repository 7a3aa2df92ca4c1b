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
    run_search(algorithm, fitness, journal, on_generation)
    best = algorithm.best
    return SearchResult(best.levels, best.fitness, algorithm.history, algorithm.history[-1].evaluated, config.seed)


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
        InputError: the fitness of every schedule of the first generation is NaN or −inf.
    """
    reported = 0
    for candidate in track(_candidates(algorithm), "Searching schedules", total=algorithm.max_evaluations):
        algorithm.tell([(candidate, _measure(candidate, fitness, journal))])
        for record in algorithm.history[reported:]:
            reported += 1
            _require_usable(record)
            if on_generation is not None:
                on_generation(record)


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


def _require_usable(record: GenerationRecord) -> None:
    """Stop at once where nothing works: hours of NaN would end in an arbitrary schedule."""
    if not record.best > -math.inf:  # also NaN
        raise InputError(
            f"fitness: all {record.evaluated} schedules of generation {record.generation} got NaN or −inf. "
            "Check the metric and the model's dtype (float16 overflows to NaN), or lower the sparsity."
        )
