"""Bootstrap intervals (Efron 1979): how far a number would move if other images, or other seeds, had been drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diff_es.errors import InputError

#: Resamples behind every interval of the project.
RESAMPLES = 200
#: Drawn once for all: the same images are drawn for every schedule, so that differences are paired.
_SEED = 20260305


def resamples(count: int, number: int = RESAMPLES) -> npt.NDArray[np.int64]:
    """Return `number` draws with replacement of `count` rows; the same ones for the same arguments.

    Args:
        count: Rows to draw from, ≥ 1.
        number: Draws, ≥ 1.

    Returns:
        (number, count) indices.
    """
    if count < 1 or number < 1:
        raise InputError(f"count={count} and number={number} must be at least 1.")
    return np.random.default_rng([_SEED, count]).integers(count, size=(number, count))


def interval(
    value: float,
    replicates: Sequence[float] | npt.NDArray[np.float64],
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Return a 95 % interval around a value, from its bootstrap replicates.

    A resample holds some images twice and others not at all, which moves a Fréchet distance or an inception score
    systematically. The replicates are therefore taken around their own mean: the interval is the value plus the 2.5 and
    97.5 percentile of (replicate - mean of the replicates).

    That shift can push an end out of the number's range: a distance of 0.1 on few images would begin below 0. The
    interval is cut there. Where the true number cannot be, it is not missed, so the 95 % stay what they are.

    Args:
        value: The number itself, within `bounds`.
        replicates: The number on each resample; NaN ones make the interval NaN.
        bounds: Least and greatest value that the number can have.
    """
    drawn = np.asarray(replicates, dtype=np.float64)
    low, high = np.percentile(drawn - drawn.mean(), [2.5, 97.5])
    # Rounding can leave a value just outside: the SSIM of an image with itself. NaN stays NaN.
    least, greatest = min(bounds[0], value), max(bounds[1], value)
    ends = np.clip([value + low, value + high], least, greatest)
    return float(ends[0]), float(ends[1])


def over_seeds(replicates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the replicates of a mean over seeds: seeds are drawn with replacement, images as in `replicates`.

    Args:
        replicates: (seeds, number): each seed's number on each resample of the images.

    Returns:
        (number,): on each resample of the images, the mean over a draw of the seeds.
    """
    seeds, number = replicates.shape
    chosen = np.random.default_rng([_SEED, seeds, number]).integers(seeds, size=(number, seeds))
    means: npt.NDArray[np.float64] = replicates[chosen, np.arange(number)[:, None]].mean(axis=1)
    return means
