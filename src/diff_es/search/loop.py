"""Run a search: ask, measure, write down, tell.

A whole batch is measured at a time: all candidates that wait for their fitness. What comes first does not matter to
the result, so they are handed on in the order in which replay saves the most, and an evaluator may spread them over
devices. Each result is written down and told as soon as it is there.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search.base import Candidate, Evaluator, GenerationRecord, Outcome, ScheduleSearch, Trial
from diff_es.search.evolution import EvolutionarySearch, EvolutionConfig
from diff_es.search.journal import Journal
from diff_es.search.journal_lines import JournalEntry, JournalHeader
from diff_es.search.racing import Rival

logger = logging.getLogger(__name__)

#: Hours of NaN would end in an arbitrary schedule, so a search stops at once where nothing works.
_WAY_OUT = "Check the metric and the model's dtype (float16 overflows to NaN), or lower the sparsity."

#: Measures a schedule; higher is better. Takes its levels, and where there is a race also the `Rival`.
Fitness: TypeAlias = Callable[..., Outcome | float]


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
        fitness: Measures one schedule. It must be a function of the levels alone; NaN means unusable. With
            `config.racing` it is also given the rival, and may drop the schedule after some probes.
        space: The schedules to search in.
        config: Settings of the evolution.
        journal: Where to write evaluations, and to take those from that an earlier run left.
        on_generation: Called with the record of each finished generation, also of those replayed from the journal.
        starts: Schedules to start from besides those of `config.starts`.

    Raises:
        InputError: the journal was opened for another search, or the fitness of every start is NaN or −inf.
    """
    if journal is not None:
        known = journal.header
        mine = JournalHeader(known.fingerprint, space, config, tuple(map(tuple, starts)), fitness=known.fitness)
        if mine.as_json() != known.as_json():
            raise InputError("journal: it was opened with another space, config or starts than the search is given.")
    algorithm = EvolutionarySearch(space, config, starts)
    return search_with(algorithm, in_process(fitness), journal, on_generation, seed=config.seed)


def in_process(fitness: Fitness) -> Evaluator:
    """Return an evaluator that measures one trial after the other, here.

    Args:
        fitness: Measures one schedule. It must be a function of the levels alone; NaN means unusable.
    """

    def evaluate(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome, float]]:
        for trial in trials:
            start = time.perf_counter()
            levels = trial.candidate.levels
            measured = fitness(levels) if trial.rival is None else fitness(levels, trial.rival)
            outcome = measured if isinstance(measured, Outcome) else Outcome(_number(measured, levels))
            yield trial, outcome, time.perf_counter() - start

    return evaluate


def _number(measured: object, levels: Levels) -> float:
    try:
        return float(measured)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"fitness: levels={levels} got {measured!r}; return a number, or an Outcome.") from error


def search_with(
    algorithm: ScheduleSearch,
    evaluate: Evaluator,
    journal: Journal | None = None,
    on_generation: Callable[[GenerationRecord], None] | None = None,
    *,
    seed: int,
) -> SearchResult:
    """Find the schedule with the highest fitness by any algorithm.

    Args:
        algorithm: A search that has not been told anything.
        evaluate: Measures schedules: `in_process(fitness)`, or what spreads them over devices.
        journal: Where to write evaluations, and to take those from that an earlier run left. Its header must name
            the algorithm and its settings.
        on_generation: Called with the record of each finished generation, also of those replayed from the journal.
        seed: The seed that the algorithm was made with, for the result.

    Raises:
        InputError: the fitness of every schedule of the first generation, or of every one that meets the budget, is
            NaN or −inf.
    """
    reported, usable = 0, False
    results = _results(algorithm, evaluate, journal)
    for candidate, fitness in track(results, "Searching schedules", total=algorithm.max_evaluations):
        usable = usable or fitness > -math.inf
        algorithm.tell([(candidate, fitness)])
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
    if journal is not None:
        _warn_of_failures(journal.entries())
    best = algorithm.best
    return SearchResult(best.levels, best.fitness, tuple(algorithm.history), algorithm.history[-1].evaluated, seed)


def _warn_of_failures(entries: Sequence[JournalEntry]) -> None:
    """Say at the end of a search which schedules it has no fitness of."""
    failed = [entry for entry in entries if entry.outcome.failure]
    if failed:
        reasons = Counter(entry.outcome.failure for entry in failed)
        logger.warning(
            "%d of %d schedules could not be measured and count as −inf: %s",
            len(failed),
            len(entries),
            " ".join(f"{number} × {reason}" for reason, number in reasons.most_common()),
        )


def _results(
    algorithm: ScheduleSearch, evaluate: Evaluator, journal: Journal | None
) -> Iterator[tuple[Candidate, float]]:
    """Yield the fitness of everything that the algorithm asks for: what the journal knows first, then new results."""
    outcomes: dict[Levels, Outcome] = {}
    while not algorithm.done:
        waiting, rival = algorithm.ask(), _rival(algorithm, outcomes)
        unknown = []
        for candidate in waiting:
            known = journal.reuse(candidate, raced=rival is not None) if journal is not None else None
            if known is None:
                unknown.append(candidate)
            else:
                outcomes[candidate.levels] = known
                yield candidate, known.fitness
        for trial, outcome, seconds in _measured(
            [Trial(candidate, rival) for candidate in sampling_order(unknown)], evaluate
        ):
            if journal is not None:
                journal.append(JournalEntry(trial.candidate, outcome, seconds))
            outcomes[trial.candidate.levels] = outcome
            yield trial.candidate, outcome.fitness


def _rival(algorithm: ScheduleSearch, outcomes: Mapping[Levels, Outcome]) -> Rival | None:
    """Return what the waiting candidates run against, with scores.

    Raises:
        InputError: the fitness gives no scores to race with.
    """
    race = algorithm.race
    if race is None:
        return None
    scores = tuple(outcomes[survivor.levels].scores for survivor in race.survivors)
    if not all(scores):
        raise InputError("racing: the fitness gives no scores per probe (Outcome.scores); search without racing.")
    return Rival(tuple(survivor.fitness for survivor in race.survivors), scores, race.racing)


def sampling_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sort so that schedules which begin alike follow one another: sampling starts in the last stage.

    Replay keeps a limited number of denoiser outputs. In this order those of a common beginning are used up before
    they have to go.
    """
    return sorted(candidates, key=lambda candidate: candidate.levels[::-1])


def _measured(trials: Sequence[Trial], evaluate: Evaluator) -> Iterator[tuple[Trial, Outcome, float]]:
    """Measure trials and check that each comes back once.

    Raises:
        InputError: the evaluator returned another trial, one twice, or not all.
    """
    waiting = set(trials)
    for trial, outcome, seconds in evaluate(trials) if trials else ():
        if trial not in waiting:
            raise InputError(f"evaluate: {trial.candidate} came back twice, or was not among the trials it was given.")
        waiting.remove(trial)
        # Metrics return numpy and torch scalars; the journal holds plain numbers.
        plain = replace(outcome, fitness=float(outcome.fitness), scores=tuple(map(float, outcome.scores)))
        yield trial, plain, seconds
    if waiting:
        raise InputError(f"evaluate: {len(waiting)} of {len(trials)} trials did not come back.")
