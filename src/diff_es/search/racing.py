"""Racing: drop a candidate after some of its probes, when it cannot plausibly survive.

All schedules are scored on the same probes, so a candidate and the worst survivor can be compared probe by probe. How
hard a probe is falls out of the difference, and a few probes tell more about it than about the fitness itself. A
candidate is dropped once its mean difference on the first n of N probes lies more than `margin` standard errors below
zero,

    mean + margin · s / √n · √(1 − n/N) < 0,

with s the standard deviation of the differences. The last factor is that of a sample from a finite population: the
fitness is the mean over these N probes and no others, so nothing is left to guess at n = N.

The algorithm is told `rival's fitness + mean`, the control variate estimate of the candidate's fitness. That lies below
the fitness of the worst survivor, and as many survivors as the next generation keeps are at least as good as that one:
a dropped candidate never survives, and what survives has been scored on all probes. Racing can only go wrong by
dropping a candidate that would have survived.
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
    """A survivor that a candidate has to beat.

    Attributes:
        fitness: Its fitness.
        scores: Its fitness on each of the N probes.
        racing: When whoever runs against it is dropped.
    """

    fitness: float
    scores: tuple[float, ...]
    racing: Racing

    def estimate(self, scores: Sequence[float]) -> float | None:
        """Return the estimated fitness of a candidate that is to be dropped; None where it is to go on.

        Args:
            scores: The candidate's fitness on the first probes; NaN on one of them is NaN on the whole.
        """
        count = len(scores)
        if count >= len(self.scores):
            return None
        if any(math.isnan(score) for score in scores):
            return math.nan
        if count < self.racing.first:
            return None
        differences = [own - other for own, other in zip(scores, self.scores, strict=False)]
        if not all(map(math.isfinite, differences)):
            return None  # PSNR of equal images is infinite: no mean, no spread
        mean = statistics.fmean(differences)
        error = statistics.stdev(differences) * math.sqrt((1 - count / len(self.scores)) / count)
        estimate = self.fitness + mean
        # The second condition follows from the first but for rounding, and no dropped candidate may ever tie.
        return estimate if mean + self.racing.margin * error < 0 and estimate < self.fitness else None
