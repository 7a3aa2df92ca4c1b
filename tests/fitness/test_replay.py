"""What the replay store keeps when memory is short."""

from __future__ import annotations

import math

import pytest
import torch

from diff_es.denoisers import copy_output
from diff_es.fitness import replay
from diff_es.fitness.replay import CallKey, ReplayStore
from diff_es.schedule import Levels
from diff_es.search import EvolutionConfig, search_schedule
from search.landscapes import SPACE, coupled

#: One byte, so that a limit is a number of outputs.
OUTPUT = (torch.zeros(1, dtype=torch.uint8),)
STEPS = sum(SPACE.calls)


def calls(levels: Levels) -> list[CallKey]:
    """The calls of a schedule in sampling order: two a stage, the last stage first."""
    stages = [stage for stage in reversed(range(len(levels))) for _ in range(2)]
    return [(tuple((level,) for level in levels[stage:]), 0, number) for number, stage in enumerate(stages)]


def sample(store: ReplayStore, levels: Levels) -> int:
    """Make the calls of a schedule; return how many had to be run."""
    missing = 0
    for key in calls(levels):
        if store.get(key) is None:
            missing += 1
            store.put(key, OUTPUT)
    return missing


def calls_run(room: int, seed: int, *, rate: bool) -> int:
    """Denoiser calls of a search with room for the outputs of `room` schedules."""
    store, landscape = ReplayStore(room * STEPS), coupled(seed)
    run = 0

    def fitness(levels: Levels) -> float:
        nonlocal run
        run += sample(store, levels)
        if rate:
            store.rate(calls(levels), landscape(levels))
        return landscape(levels)

    search_schedule(fitness, SPACE, EvolutionConfig(generations=15, seed=seed))
    return run


@pytest.mark.parametrize("room", [4, 8])
def test_with_little_memory_favouring_the_fittest_saves_calls(room: int) -> None:
    plain, favoured = (sum(calls_run(room, seed, rate=rate) for seed in range(4)) for rate in (False, True))
    assert favoured < 0.97 * plain


def test_without_a_limit_each_different_call_is_run_once() -> None:
    different: set[CallKey] = set()

    def fitness(levels: Levels) -> float:
        different.update(calls(levels))
        return coupled(0)(levels)

    search_schedule(fitness, SPACE, EvolutionConfig(generations=15, seed=0))
    assert calls_run(10**6, 0, rate=True) == calls_run(10**6, 0, rate=False) == len(different)


def test_an_output_above_the_limit_leaves_the_others_alone() -> None:
    store = ReplayStore(2)
    for number in range(2):
        store.put(((), 0, number), OUTPUT)
    store.put(((), 0, 2), (torch.zeros(3, dtype=torch.uint8),))
    assert store.bytes == 2 and all(store.get(((), 0, number)) is not None for number in range(2))
    assert store.get(((), 0, 2)) is None


def test_what_is_kept_is_a_copy_and_without_room_none_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[object] = []
    monkeypatch.setattr(replay, "copy_output", lambda output: copies.append(output) or copy_output(output))
    ReplayStore(0).put(((), 0, 0), OUTPUT)
    assert not copies
    store = ReplayStore(1)
    store.put(((), 0, 0), OUTPUT)
    assert copies == [OUTPUT] and store.get(((), 0, 0))[0] is not OUTPUT[0]


def test_a_fit_schedule_outlives_unfit_ones_that_came_later() -> None:
    store = ReplayStore(4 * 3)
    for level, fitness in ((0, 1.0), (1, -1.0), (2, math.nan), (3, -math.inf), (4, -2.0), (5, -3.0)):
        assert sample(store, (level, level)) == 4
        store.rate(calls((level, level)), fitness)
    assert sample(store, (0, 0)) == 0
    assert sample(store, (3, 3)) == 4


def test_of_a_fit_schedule_the_first_calls_stay_longest() -> None:
    store = ReplayStore(4)
    sample(store, (1, 1))
    store.rate(calls((1, 1)), 0.0)
    store.put(((), 1, 0), OUTPUT)
    known = [store.get(key) is not None for key in calls((1, 1))]
    assert known == [True, True, True, False]


def test_the_number_of_favoured_schedules_is_bounded() -> None:
    store = ReplayStore(10**6)
    for level in range(100):
        sample(store, (level, level))
        store.rate(calls((level, level)), float(level))
    assert [fitness for fitness, _ in store._fittest] == [float(level) for level in range(99, 91, -1)]
    assert store.bytes == 400
