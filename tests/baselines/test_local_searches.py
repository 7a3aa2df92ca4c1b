"""Random search, hill climbing and greedy search against plain loops and brute force."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import drive, finish, make

from diff_es.baselines import BaselineConfig, ProposalSearch
from diff_es.baselines.greedy import greedy, raise_step, raises
from diff_es.baselines.hill_climb import climb, hill_climb
from diff_es.schedule import Levels, ScheduleSpace
from search.landscapes import FAMILIES, SPACE, Landscape, noise, quadratic, rugged
from search.spaces import all_schedules, space_of, spaces


def rough(levels: Levels) -> float:
    return random.Random(repr(levels)).random()


def switched(levels: Levels, reach: int, cap: int) -> list[Levels]:
    """All schedules one level switch away, for equal calls: one stage up, another down by the same, at most `reach`."""
    neighbours = []
    for i, j, delta in product(range(len(levels)), range(len(levels)), range(1, reach + 1)):
        if i != j and levels[i] + delta <= cap and levels[j] >= delta:
            child = list(levels)
            child[i] += delta
            child[j] -= delta
            neighbours.append(tuple(child))
    return neighbours


def plain_greedy(fitness: Landscape, space: ScheduleSpace, reach: int) -> Levels:
    """The documented search written out, for equal calls, raises of one level and distinct fitness values."""
    levels = [0] * space.num_stages
    while space.spent(tuple(levels)) < space.required:
        gains = {}
        for stage in range(space.num_stages):
            if levels[stage] < space.num_levels:
                levels[stage] += 1
                gains[stage] = fitness(tuple(levels))
                levels[stage] -= 1
        levels[max(gains, key=lambda stage: gains[stage])] += 1
    current = tuple(levels)
    for limit in (1, reach):
        while fitness(best := max(switched(current, limit, space.num_levels), key=fitness)) > fitness(current):
            current = best
    return max(current, space.uniform(), key=fitness)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", range(3))
def test_greedy_equals_the_loop_written_out(family: str, index: int) -> None:
    fitness = FAMILIES[family](index)
    algorithm = ProposalSearch(SPACE, greedy(SPACE, BaselineConfig(100_000)), BaselineConfig(100_000))
    finish(algorithm, fitness)
    assert algorithm.best.levels == plain_greedy(fitness, SPACE, 5)


@given(spaces(), st.integers(1, 300), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_construction_fits_the_evaluations_whatever_the_fitness(
    space: ScheduleSpace, evaluations: int, choice: random.Random
) -> None:
    step = raise_step(space, evaluations)
    if step is None:
        return
    levels, used = (0,) * space.num_stages, 0
    while space.spent(levels) < space.required:
        raised = raises(space, levels, step)
        used += len(raised)
        levels = choice.choice(raised)
    assert used <= evaluations
    assert space.contains(levels)


def test_raises_grow_as_evaluations_get_scarce() -> None:
    """Ten stages at half of 16 levels, as in the paper: 80 rounds of 10 evaluations."""
    space = space_of((2,) * 10, 16, 0.5)
    assert [raise_step(space, evaluations) for evaluations in (1619, 800, 799, 400, 60, 49)] == [1, 1, 2, 2, 16, None]
    assert raises(space, (16, 16, 16, 16, 14, 0, 0, 0, 0, 0), 4) == [
        (16, 16, 16, 16, *(tail))
        for tail in ((16, 0, 0, 0, 0, 0), *((14, *(2 * (i == j) for j in range(5))) for i in range(5)))
    ]


def test_greedy_with_hardly_any_evaluations_tries_switches_of_the_uniform_schedule() -> None:
    algorithm = ProposalSearch(SPACE, greedy(SPACE, BaselineConfig(6)), BaselineConfig(6))
    first, *others = finish(algorithm, rough)
    assert first == SPACE.uniform()
    assert len(others) == 5 and set(others) <= set(switched(first, 1, SPACE.num_levels))


@pytest.mark.parametrize("portion", [1, 4, None])
@pytest.mark.parametrize("make_landscape", [rugged, quadratic, noise])
def test_a_climb_ends_at_a_local_optimum(portion: int | None, make_landscape: type[Landscape]) -> None:
    for seed in range(3):
        fitness = make_landscape(seed)
        steps = climb(SPACE, SPACE.uniform(), 3, portion, np.random.default_rng(seed))
        batches, (end, visited) = drive(steps, fitness)  # type: ignore[misc]
        neighbours = [other for other in all_schedules(SPACE) if is_switch(end, other, 3)]
        assert max(map(fitness, neighbours)) <= fitness(end)
        assert fitness(end) == max(map(fitness, visited))
        assert visited == {levels for batch in batches for levels in batch} >= set(neighbours)
        assert max(map(len, batches)) <= (portion or 1000)


def is_switch(one: Levels, other: Levels, reach: int) -> bool:
    changes = sorted(b - a for a, b in zip(one, other, strict=True) if a != b)
    return len(changes) == 2 and changes[0] == -changes[1] and changes[1] <= reach


def test_steepest_ascent_takes_the_best_of_all_neighbours() -> None:
    batches, _ = drive(climb(SPACE, SPACE.uniform(), 2, None, np.random.default_rng(0)), rough)
    current = SPACE.uniform()
    assert batches[0] == [current]
    for batch in batches[1:]:
        neighbours = switched(current, 2, SPACE.num_levels)
        assert sorted(batch) == sorted(neighbours)
        current = max(neighbours, key=rough)


def test_hill_climbing_restarts_until_the_space_is_used_up() -> None:
    space = space_of((1, 1, 1), 5, 0.5)
    told = finish(ProposalSearch(space, hill_climb(space, BaselineConfig(1000)), BaselineConfig(1000)), rough)
    assert set(told) == set(all_schedules(space))


def test_random_search_draws_the_whole_of_a_small_space() -> None:
    space = space_of((1, 1, 1), 5, 0.5)
    algorithm = make("random", space, 100)
    assert set(finish(algorithm, rough)) == set(all_schedules(space))
