"""What every search algorithm shares: candidates, evaluations, their order, and the ask/tell contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from diff_es.schedule import Levels
from diff_es.search.racing import Racing, Rival


@dataclass(frozen=True)
class Candidate:
    """A schedule that waits for its fitness.

    Attributes:
        levels: Stage levels, stage 0 (the low-noise end) first.
        generation: The generation that proposed it; 0 is the start population.
        child: Its place in that generation. (generation, child) names a candidate of a search.
    """

    levels: Levels
    generation: int
    child: int


@dataclass(frozen=True)
class Trial:
    """A candidate to be measured, and what it is to be measured against.

    Attributes:
        candidate: The candidate.
        rival: What it has to beat, or be dropped early; None where it is scored on all probes whatever comes.
    """

    candidate: Candidate
    rival: Rival | None = None


@dataclass(frozen=True)
class Outcome:
    """What a fitness function reports of one schedule.

    Attributes:
        fitness: Higher is better. NaN and −inf mean "unusable" and lose against everything else.
        denoiser_calls: Denoiser calls that were run.
        replayed_calls: Denoiser calls that were answered from memory instead.
        scores: The fitness on each probe, of which `fitness` is the mean; empty where there are no probes.
        dropped: Whether `scores` holds only the first probes and `fitness` is an estimate (see `Racing`).
        failure: Why it could not be measured, where that may not be the schedule's fault (its workers died): then
            `fitness` is −inf, and a search that is resumed measures it again. Empty where it was measured.
    """

    fitness: float
    denoiser_calls: int = 0
    replayed_calls: int = 0
    scores: tuple[float, ...] = ()
    dropped: bool = False
    failure: str = ""


#: Measures a batch of trials, in this process or in others: yields each trial with its outcome and the seconds that it
#: took, in any order, as soon as it is known. A trial's fitness must be a function of the trial alone.
Evaluator: TypeAlias = Callable[[Sequence[Trial]], Iterator[tuple[Trial, Outcome, float]]]


@dataclass(frozen=True)
class Scored:
    """A candidate with its fitness."""

    candidate: Candidate
    fitness: float

    @property
    def levels(self) -> Levels:
        """The stage levels."""
        return self.candidate.levels

    @property
    def usable(self) -> bool:
        """Whether the fitness is a number that may win: neither NaN nor −inf."""
        return self.fitness > -math.inf

    @property
    def rank(self) -> tuple[float, int, Levels]:
        """Sort key, best first: fitness, then age (the older wins a tie), then levels.

        NaN compares false with everything and would leave a sort in an arbitrary order; it ranks as −inf.
        """
        return (-self.fitness if self.usable else math.inf, self.candidate.generation, self.levels)


@dataclass(frozen=True)
class Race:
    """What the candidates of a generation run against.

    Attributes:
        survivors: Schedules that were scored on all probes; candidates have to beat the worst of them to matter.
        racing: When they are dropped.
    """

    survivors: tuple[Scored, ...]
    racing: Racing


@dataclass(frozen=True)
class FitnessSummary:
    """Fitness of a group of schedules; the three values are over the usable ones, None where there is none.

    Attributes:
        best: Highest fitness.
        mean: Mean fitness.
        worst: Lowest fitness.
        unusable: How many had a fitness of NaN or −inf.
    """

    best: float | None
    mean: float | None
    worst: float | None
    unusable: int

    @classmethod
    def of(cls, group: Iterable[Scored]) -> FitnessSummary:
        """Summarise a group; the sum is exact (`math.fsum`), so the order of the group does not matter."""
        members = list(group)
        values = [member.fitness for member in members if member.usable]
        if not values:
            return cls(None, None, None, len(members))
        mean = math.fsum(value / len(values) for value in values)
        return cls(max(values), mean, min(values), len(members) - len(values))


@dataclass(frozen=True)
class GenerationRecord:
    """One line of a search's history.

    Attributes:
        generation: 0 for the start population.
        evaluated: Different schedules evaluated so far.
        best: The highest fitness so far of a schedule that meets the budget.
        best_levels: The schedule that has it.
        population: The survivors after this generation.
        offspring: The schedules that this generation added, without those that do not meet the budget.
    """

    generation: int
    evaluated: int
    best: float
    best_levels: Levels
    population: FitnessSummary
    offspring: FitnessSummary


class ScheduleSearch(Protocol):
    """A search algorithm. It proposes schedules and is told their fitness; how that is measured is not its business.

    The contract, for whoever adds another algorithm:

    - `ask` returns the candidates that still wait for a fitness, each schedule at most once in the life of a
      search; never an empty list while not `done`. Asking twice changes nothing.
    - `tell` takes any part of them, in any order; results depend on neither.
    - What it does follows from a seed and from what it was told, so that a search which is told the same fitness
      values again (those of a journal) takes the same way again.
    - Candidates need not meet the budget where an algorithm learns from others too; `best` and the history hold only
      schedules that do.
    """

    @property
    def done(self) -> bool:
        """Whether nothing is left to evaluate."""

    @property
    def best(self) -> Scored:
        """The best schedule of the finished generations that meets the budget."""

    @property
    def history(self) -> Sequence[GenerationRecord]:
        """One record per finished generation."""

    @property
    def max_evaluations(self) -> int:
        """An upper bound of the number of schedules that will be evaluated."""

    @property
    def race(self) -> Race | None:
        """What the candidates that wait run against; None where all of them are scored on all probes.

        It is the same from the first candidate of a batch to the last, whatever has been told of them.
        """

    def ask(self) -> list[Candidate]:
        """Return the candidates that wait for their fitness."""

    def tell(self, results: Iterable[tuple[Candidate, float]]) -> None:
        """Take the fitness of candidates that were asked for."""
