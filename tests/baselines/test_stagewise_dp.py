"""The ranking of all schedules by a sum over stages, and the search that is built on it, against brute force."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import finish, make

from diff_es.baselines import BaselineConfig, ProposalSearch
from diff_es.baselines.ranked import ranked_schedules
from diff_es.baselines.stagewise_dp import stagewise_dp
from diff_es.errors import InputError
from diff_es.schedule import Levels, ScheduleSpace
from search.landscapes import SPACE, Landscape, rugged, separable
from search.spaces import all_schedules, space_of, spaces


@given(spaces(max_stages=4), st.integers(0, 10**6), st.sampled_from([3, 2**49]))
@settings(max_examples=60, deadline=None)
def test_schedules_come_in_the_order_of_their_scores(space: ScheduleSpace, seed: int, size: int) -> None:
    """Small scores make many ties, large ones test the width of the sums."""
    rng = np.random.default_rng(seed)
    scores = [rng.integers(-size, size + 1, cap + 1).tolist() for cap in space.max_levels]

    def order(levels: Levels) -> tuple[int, Levels]:
        return -sum(row[level] for row, level in zip(scores, levels, strict=True)), levels

    expected = sorted(all_schedules(space), key=order)
    assert list(islice(ranked_schedules(space, scores), 300)) == expected[:300]


def test_the_first_schedules_of_a_large_space_come_at_once() -> None:
    """Ten stages of 16 levels hold 10¹¹ schedules; equal scores must not make it walk through them."""
    space = space_of((2,) * 10, 16, 0.5)
    flat = list(islice(ranked_schedules(space, [[7] * 17] * 10), 500))
    assert flat == sorted(set(flat)) and all(map(space.contains, flat))
    rng = np.random.default_rng(0)
    scores = rng.integers(-(2**40), 2**40, (10, 17)).tolist()
    sums = [sum(scores[i][level] for i, level in enumerate(s)) for s in islice(ranked_schedules(space, scores), 1500)]
    assert sums == sorted(sums, reverse=True)


def search(fitness: Landscape, space: ScheduleSpace, evaluations: int) -> tuple[list[Levels], ProposalSearch]:
    config = BaselineConfig(evaluations)
    algorithm = ProposalSearch(space, stagewise_dp(space, config), config)
    return list(finish(algorithm, fitness)), algorithm


@pytest.mark.parametrize("landscape", [separable(0), separable(1), rugged(0), rugged(1), rugged(2)])
def test_separable_landscapes_are_solved_by_one_schedule(landscape: Landscape) -> None:
    """Six stages of 8 levels: uniform, dense, 48 schedules of one stage, and the optimum that brute force finds."""
    asked, algorithm = search(landscape, SPACE, 2 + 48 + 1)
    optimum = max(all_schedules(SPACE), key=landscape)
    assert asked[-1] == algorithm.best.levels == optimum
    assert len(asked) == 51


def test_what_is_left_goes_to_the_next_best_schedules() -> None:
    landscape = rugged(3)
    asked, _ = search(landscape, SPACE, 50 + 40)
    best = sorted(all_schedules(SPACE), key=landscape, reverse=True)
    assert asked[50:] == [levels for levels in best if levels != SPACE.uniform()][:40]


def test_unequal_calls_and_caps() -> None:
    space = ScheduleSpace((1, 2, 3, 2, 1), 8, 0.45, (8, 6, 8, 5, 0))
    table = np.random.default_rng(4).normal(size=(5, 9))
    fitness: Landscape = lambda levels: float(table[range(5), list(levels)].sum())  # noqa: E731
    _, algorithm = search(fitness, space, 2 + 27 + 1)
    assert algorithm.best.levels == max(all_schedules(space), key=fitness)


def test_scarce_evaluations_measure_fewer_levels_and_interpolate() -> None:
    """On piecewise linear costs with their kink at half of the levels, two levels of each stage say everything."""
    slopes = np.random.default_rng(5).uniform(0.1, 1, (6, 2))

    def fitness(levels: Levels) -> float:
        x = np.array(levels)
        return -float(np.sum(slopes[:, 0] * x + slopes[:, 1] * np.maximum(x - 4, 0)))

    asked, algorithm = search(fitness, SPACE, 2 + 12 + 1)
    singles = asked[1:14]
    assert {max(levels) for levels in singles} == {0, 4, 8} and all(sum(map(bool, s)) <= 1 for s in singles)
    assert fitness(algorithm.best.levels) == pytest.approx(max(map(fitness, all_schedules(SPACE))), abs=1e-12)


def test_too_few_evaluations_are_an_error() -> None:
    assert len(search(separable(0), SPACE, 9)[0]) == 9
    with pytest.raises(InputError, match="evaluations=8: stagewise-dp needs at least 9 for 6 stages"):
        search(separable(0), SPACE, 8)


def test_unusable_levels_are_avoided_while_the_budget_allows() -> None:
    """Stages 0 and 1 break from level 3 on; the others can carry the budget."""
    fine = separable(2)
    fitness: Landscape = lambda levels: math.nan if max(levels[:2]) >= 3 else fine(levels)  # noqa: E731
    asked, algorithm = search(fitness, SPACE, 51)
    valid = [levels for levels in all_schedules(SPACE) if max(levels[:2]) < 3]
    assert asked[-1] == algorithm.best.levels == max(valid, key=fitness)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_an_infinite_fitness_of_the_dense_model_and_any_scale(scale: float) -> None:
    """PSNR of the dense images with themselves is infinite."""
    fine = separable(2)
    with np.errstate(all="raise"):
        _, algorithm = search(lambda levels: fine(levels) * scale if any(levels) else math.inf, SPACE, 51)
    plain = search(lambda levels: fine(levels) if any(levels) else -0.005, SPACE, 51)[1]
    assert algorithm.best.levels == plain.best.levels


def test_equal_fitness_everywhere() -> None:
    algorithm = make("stagewise-dp", SPACE, 3)
    asked = list(finish(algorithm, lambda _: 0.5))
    assert len(asked) == algorithm.max_evaluations
    assert all(one < other for one, other in pairwise(asked[-15:]))
