"""Racing: drop a candidate after some of its probes, when it cannot plausibly survive.

All schedules are scored on the same probes, so a candidate can be compared with a survivor probe by probe. How hard a
probe is falls out of the difference, and a few probes tell more about the difference than about the fitness itself.
From the first n of N probes, with d the candidate's scores less the survivor's,

    estimate = survivor's fitness + mean(d),    error = stdev(d) / √n · √(1 − n/N).

The last factor is that of a sample from a finite population: the fitness is the mean over these N probes and no others,
so nothing is left to guess at n = N. Any survivor will do, and the one that the candidate resembles most, mostly its
parent, tells most: the estimate of the smallest error is taken. A candidate is dropped where

    estimate + margin · error < fitness of the worst survivor,

and the algorithm is told the estimate. That lies below the fitness of the worst survivor, and there are as many
survivors as the next generation keeps: a dropped candidate never survives, and what survives has been scored on all
probes. Racing can only go wrong by dropping a candidate that would have survived.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from diff_es.errors import InputError


@dataclass(frozen=True)
class Racing:
    """When a candidate is dropped.

    Attributes:
        first: Probes that are scored before a candidate may be dropped, 2 or more; then it may be after each batch.
        margin: Standard errors by which it must be worse than the worst survivor, more than 0.
    """

    first: int = 4
    margin: float = 3.0

    def __post_init__(self) -> None:
        if self.first < 2:
            raise InputError(f"Racing.first={self.first} must be at least 2: one difference has no spread.")
        if not self.margin > 0:
            raise InputError(f"Racing.margin={self.margin} must be above 0.")


@dataclass(frozen=True)
class Rival:
    """The survivors that a candidate runs against.

    Attributes:
        fitness: The fitness of each of them; the lowest has to be beaten.
        scores: The fitness of each of them on each of the N probes.
        racing: When whoever runs against them is dropped.
    """

    fitness: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    racing: Racing

    def estimate(self, scores: Sequence[float]) -> float | None:
        """Return the estimated fitness of a candidate that is to be dropped; None where it is to go on.

        Args:
            scores: The candidate's fitness on the first probes; NaN on one of them is NaN on the whole.
        """
        count, total = len(scores), len(self.scores[0])
        if count >= total:
            return None
        if any(math.isnan(score) for score in scores):
            return math.nan
        if count < self.racing.first:
            return None
        compared = [self._compared(scores, survivor) for survivor in range(len(self.fitness))]
        estimate, error = min(compared, key=lambda pair: pair[1])
        worst = min(self.fitness)
        # The second condition follows from the first but for rounding, and no dropped candidate may ever tie.
        dropped = estimate + self.racing.margin * error < worst and estimate < worst
        return estimate if dropped else None

    def _compared(self, scores: Sequence[float], survivor: int) -> tuple[float, float]:
        """Return the estimate by one survivor and its standard error."""
        differences = [own - other for own, other in zip(scores, self.scores[survivor], strict=False)]
        if not all(map(math.isfinite, differences)):
            return math.inf, math.inf  # PSNR of equal images is infinite: no mean, no spread
        count, total = len(scores), len(self.scores[survivor])
        error = statistics.stdev(differences) * math.sqrt((1 - count / total) / count)
        return self.fitness[survivor] + statistics.fmean(differences), error
