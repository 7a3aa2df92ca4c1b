"""Bootstrap intervals against scipy's, against their own promise (95 % coverage), and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from diff_es.errors import InputError
from diff_es.evaluation import interval, over_seeds
from diff_es.evaluation.bootstrap import RESAMPLES, resamples


def skewed(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=count)


def mean_interval(values: np.ndarray, number: int) -> tuple[float, float]:
    return interval(float(values.mean()), values[resamples(len(values), number)].mean(axis=1))


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_the_interval_of_a_mean_is_scipys(method: str) -> None:
    """On symmetric data, where both of scipy's plain methods agree, within what 20,000 resamples leave to chance."""
    values = np.random.default_rng(3).normal(5, 2, size=80)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(0)
    ).confidence_interval
    ours = mean_interval(values, 20_000)
    spread = float(values.std() / math.sqrt(80))
    np.testing.assert_allclose(ours, theirs, atol=0.06 * spread)
    # The project's 200 resamples find the same, more coarsely: a 2.5 % quantile of 200 has an error of 0.19 of these.
    np.testing.assert_allclose(mean_interval(values, RESAMPLES), theirs, atol=0.7 * spread)


def test_on_skewed_data_it_is_the_percentile_interval() -> None:
    values = skewed(40)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_allclose(mean_interval(values, 20_000), theirs, atol=0.06 * values.std() / math.sqrt(40))


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(500):
        low, high = mean_interval(np.random.default_rng([7, seed]).normal(size=100), RESAMPLES)
        held += low <= 0 <= high
    assert 0.91 <= held / 500 <= 0.975


def test_a_shift_of_all_replicates_does_not_move_the_interval() -> None:
    """What resampling does to the number itself (a Fréchet distance grows) is no part of its uncertainty."""
    replicates = np.random.default_rng(0).normal(size=300)
    low, high = interval(10.0, replicates)
    assert (low, high) == pytest.approx(interval(10.0, replicates + 3), abs=1e-12)
    assert low < 10 < high
    assert (low + 1, high + 1) == pytest.approx(interval(11.0, replicates), abs=1e-12)


def test_an_interval_ends_where_the_numbers_range_does() -> None:
    """A Fréchet distance of few images: resamples move it up, and the shift back would push an end below 0."""
    replicates = np.random.default_rng(0).normal(3, 1, size=300)
    free = interval(0.5, replicates)
    assert free[0] < -1 and free[1] > 2
    assert interval(0.5, replicates, (0, math.inf)) == (0, free[1])
    assert interval(0.5, replicates, (-math.inf, 1)) == (free[0], 1)
    assert interval(1 + 1e-7, replicates, (0, 1))[1] == 1 + 1e-7, "the value itself is never left out"
    assert all(math.isnan(end) for end in interval(math.nan, replicates, (0, 1)))


def test_cutting_an_interval_at_the_range_costs_no_coverage() -> None:
    """Means near the end of their range: the cut intervals hold the truth exactly as often as the whole ones."""
    held = []
    for seed in range(300):
        values = np.random.default_rng([9, seed]).exponential(size=12)
        replicates = values[resamples(12)].mean(axis=1) + 2
        whole, cut = (interval(float(values.mean()), replicates, (least, math.inf)) for least in (-math.inf, 0.8))
        held.append((whole[0] <= 1 <= whole[1], cut[0] <= 1 <= cut[1]))
    assert sum(own for own, _ in held) == sum(own for _, own in held) > 200


def test_equal_replicates_have_no_width_and_broken_ones_none_at_all() -> None:
    assert interval(0.5, (0.7,) * 20) == pytest.approx((0.5, 0.5), abs=1e-15)
    assert all(math.isnan(end) for end in interval(0.5, (0.4, math.nan, 0.6)))


def test_resamples_are_the_same_for_the_same_arguments() -> None:
    first = resamples(50)
    assert first.shape == (RESAMPLES, 50) and first.min() == 0 and first.max() == 49
    np.testing.assert_array_equal(first, resamples(50))
    assert not np.array_equal(first[:, :20], resamples(20)), "another number of images, other draws"
    assert len({tuple(row) for row in first.tolist()}) == RESAMPLES


def test_resamples_draw_every_row_alike_and_with_replacement() -> None:
    drawn = resamples(30, 2000)
    counts = np.bincount(drawn.ravel(), minlength=30)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    distinct = np.mean([len(set(row)) for row in drawn.tolist()]) / 30
    assert distinct == pytest.approx(1 - (1 - 1 / 30) ** 30, abs=0.005)


@pytest.mark.parametrize(("count", "number"), [(0, 5), (5, 0), (-1, 5)])
def test_nothing_to_draw_is_refused(count: int, number: int) -> None:
    with pytest.raises(InputError, match=f"count={count} and number={number} must be at least 1"):
        resamples(count, number)


def test_seeds_are_drawn_and_images_kept() -> None:
    """Column j belongs to resample j of the images: its mean is over draws of the seeds' values in that column."""
    number = 40
    replicates = 1000.0 * np.arange(number) + np.array([[1.0], [10.0], [100.0]])
    means = over_seeds(replicates)
    possible = {(a + b + c) / 3 for a in (1, 10, 100) for b in (1, 10, 100) for c in (1, 10, 100)}
    assert means.shape == (number,)
    for j, value in enumerate(means):
        assert any(value - 1000 * j == pytest.approx(mean) for mean in possible)
    assert len({round(value - 1000 * j, 6) for j, value in enumerate(means)}) > 5
    np.testing.assert_array_equal(means, over_seeds(replicates))


def test_over_seeds_equals_a_plain_loop() -> None:
    replicates = np.random.default_rng(0).normal(size=(5, 60))
    # What was drawn is read off a table whose rows are powers of ten: the digits of a sum count each seed's draws.
    drawn = np.rint(over_seeds(np.repeat(10.0 ** np.arange(5)[:, None], 60, axis=1)) * 5).astype(int)
    for j, digits in enumerate(drawn.tolist()):
        total = 0.0
        for seed in range(5):
            total += digits // 10**seed % 10 * replicates[seed, j]
        assert over_seeds(replicates)[j] == pytest.approx(total / 5)


def test_over_seeds_has_the_spread_of_a_mean_over_seeds() -> None:
    values = skewed(8, seed=2)
    means = over_seeds(np.repeat(values[:, None], 20_000, axis=1))
    assert means.mean() == pytest.approx(values.mean(), rel=0.02)
    assert means.std() == pytest.approx(values.std() / math.sqrt(8), rel=0.03)


def test_one_seed_leaves_the_images_alone() -> None:
    replicates = np.random.default_rng(0).normal(size=(1, 30))
    np.testing.assert_array_equal(over_seeds(replicates), replicates[0])
