"""The evolutionary search: its moves, its order, its end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import Candidate, EvolutionarySearch, EvolutionConfig, Scored, search_schedule
from diff_es.search.evolution import level_switches

from .spaces import all_schedules, space_of, spaces


def rough(levels: Levels) -> float:
    """A fixed landscape without structure."""
    return random.Random(repr(levels)).random()


def finish(algorithm: EvolutionarySearch, fitness: Callable[[Levels], float]) -> EvolutionarySearch:
    while not algorithm.done:
        algorithm.tell([(candidate, fitness(candidate.levels)) for candidate in algorithm.ask()])
    return algorithm


@given(spaces(), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_every_candidate_is_in_the_space_and_asked_once(space: ScheduleSpace, seed: int) -> None:
    asked: list[Levels] = []
    algorithm = EvolutionarySearch(space, EvolutionConfig(generations=5, seed=seed))
    while not algorithm.done:
        candidates = algorithm.ask()
        assert candidates
        asked += [candidate.levels for candidate in candidates]
        algorithm.tell([(candidate, rough(candidate.levels)) for candidate in candidates])
    assert all(space.contains(levels) for levels in asked)
    assert len(set(asked)) == len(asked) <= algorithm.max_evaluations
    assert algorithm.best.fitness == max(map(rough, asked))


@given(spaces(), st.integers(1, 6), st.integers(0, 100))
def test_every_level_switch_stays_in_the_space(space: ScheduleSpace, max_mutation: int, seed: int) -> None:
    parent = space.project([16 * random.Random(seed + i).random() for i in range(space.num_stages)])
    for child in level_switches(space, parent, max_mutation):
        assert space.contains(child)
        changes = [new - old for new, old in zip(child, parent, strict=True)]
        risen = [change for change in changes if change > 0]
        assert len(risen) == 1 and risen[0] <= max_mutation
        assert sum(change < 0 for change in changes) <= 1
        if len(set(space.calls)) == 1:
            assert min(changes) == -risen[0]


@pytest.mark.parametrize("max_mutation", [1, 2, 5])
def test_mutations_are_exactly_the_neighbours_of_the_paper(max_mutation: int) -> None:
    """Equal calls: L_i + Δ, L_j − Δ for every i ≠ j and Δ within Δmax and the bounds, each exactly once."""
    space = ScheduleSpace((2, 2, 2, 2), 5, 0.5, (5, 3, 5, 4))
    schedules = set(all_schedules(space))
    for parent in schedules:
        neighbours = {
            other
            for other in schedules
            if sum(a != b for a, b in zip(parent, other, strict=True)) == 2
            and max(abs(a - b) for a, b in zip(parent, other, strict=True)) <= max_mutation
        }
        switches = level_switches(space, parent, max_mutation)
        assert len(switches) == len(set(switches))
        assert set(switches) == neighbours


def test_mutation_draws_every_neighbour() -> None:
    space = space_of((1, 1, 1), 4, 0.5)
    reached: set[Levels] = set()
    for seed in range(60):
        config = EvolutionConfig(generations=1, survivors=1, offspring=2, seed=seed, starts=("uniform",))
        algorithm = EvolutionarySearch(space, config)
        algorithm.tell([(candidate, 0.0) for candidate in algorithm.ask()])
        reached |= {candidate.levels for candidate in algorithm.ask()}
    assert reached == set(level_switches(space, (2, 2, 2), 5))


@pytest.mark.parametrize("calls", [(1, 1, 1), (1, 2, 3)])
def test_a_small_space_is_used_up_and_the_search_ends(calls: tuple[int, ...]) -> None:
    """Every schedule is found but those that prune more than needed: some stage of them could be lowered."""
    space = space_of(calls, 4, 0.5)
    seen: set[Levels] = set()
    algorithm = finish(
        EvolutionarySearch(space, EvolutionConfig(generations=1000)),
        lambda levels: seen.add(levels) or rough(levels),  # type: ignore[func-returns-value]
    )
    schedules = set(all_schedules(space))
    lean = {levels for levels in schedules if not any(map(space.contains, lowered(levels)))}
    assert lean <= seen <= schedules
    assert lean == schedules or len(set(calls)) > 1
    assert algorithm.history[-1].evaluated == len(seen)
    assert len(algorithm.history) < 100


def lowered(levels: Levels) -> list[Levels]:
    """The schedules with one stage one level lower."""
    return [(*levels[:i], level - 1, *levels[i + 1 :]) for i, level in enumerate(levels)]


@pytest.mark.parametrize("space", [space_of((3,), 8, 0.5), space_of((1, 1), 8, 1.0), space_of((2, 1), 8, 0.0)])
def test_a_space_of_one_or_few_schedules_ends(space: ScheduleSpace) -> None:
    algorithm = finish(EvolutionarySearch(space, EvolutionConfig()), rough)
    assert algorithm.best.levels in all_schedules(space)


@given(st.randoms(use_true_random=False), st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_the_order_and_portions_of_telling_do_not_matter(order: random.Random, seed: int) -> None:
    space, config = space_of((2, 1, 3, 2), 6, 0.4), EvolutionConfig(generations=6, seed=seed)
    straight = finish(EvolutionarySearch(space, config), rough)
    shuffled = EvolutionarySearch(space, config)
    while not shuffled.done:
        candidates = shuffled.ask()
        order.shuffle(candidates)
        part = candidates[: order.randint(1, len(candidates))]
        shuffled.tell([(candidate, rough(candidate.levels)) for candidate in part])
    assert shuffled.history == straight.history
    assert shuffled.population == straight.population
    assert shuffled.best == straight.best


@given(spaces(max_stages=5), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_the_best_never_worsens_and_survivors_are_the_best_seen(space: ScheduleSpace, seed: int) -> None:
    algorithm = EvolutionarySearch(space, EvolutionConfig(generations=8, seed=seed))
    bests: list[float] = []
    while not algorithm.done:
        algorithm.tell([(candidate, rough(candidate.levels)) for candidate in algorithm.ask()])
        bests.append(algorithm.best.fitness)
    assert bests == sorted(bests)
    assert [record.best for record in algorithm.history] == sorted(record.best for record in algorithm.history)


def test_survivors_are_the_best_of_everything_before_the_first_restart() -> None:
    algorithm = EvolutionarySearch(space_of((2,) * 8, 16, 0.5), EvolutionConfig(generations=10))
    seen: dict[Levels, float] = {}
    while not algorithm.done:
        candidates = algorithm.ask()
        seen |= {candidate.levels: rough(candidate.levels) for candidate in candidates}
        algorithm.tell([(candidate, seen[candidate.levels]) for candidate in candidates])
        assert [scored.fitness for scored in algorithm.population] == sorted(seen.values(), reverse=True)[:4]
    assert len(seen) == algorithm.max_evaluations == 20 + 10 * 16


@pytest.mark.parametrize("unusable", [math.nan, -math.inf])
def test_unusable_fitness_loses_against_everything(unusable: float) -> None:
    space = space_of((2,) * 6, 16, 0.5)

    def fitness(levels: Levels) -> float:
        return unusable if sum(levels) % 2 == 0 and levels[0] > 6 else -1e300 - sum(x * x for x in levels)

    algorithm = EvolutionarySearch(space, EvolutionConfig(generations=10))
    while not algorithm.done:
        algorithm.tell([(candidate, fitness(candidate.levels)) for candidate in algorithm.ask()])
        assert all(scored.usable for scored in algorithm.population)
    assert algorithm.best.fitness > -math.inf
    assert algorithm.history[0].offspring.unusable > 0
    assert math.isfinite(algorithm.history[0].population.mean or math.nan)


def test_ties_go_to_the_older_then_to_the_smaller_levels() -> None:
    tied = [
        Scored(Candidate(levels, generation, 0), 1.0) for levels, generation in [((2, 1), 1), ((1, 2), 1), ((3, 0), 0)]
    ]
    lost = [Scored(Candidate((0, 3), 0, 1), math.nan), Scored(Candidate((0, 3), 0, 2), -math.inf)]
    ranked = sorted([*lost, *tied], key=lambda scored: scored.rank)
    assert [scored.levels for scored in ranked] == [(3, 0), (1, 2), (2, 1), (0, 3), (0, 3)]


def test_asking_twice_changes_nothing_and_telling_twice_is_refused() -> None:
    algorithm = EvolutionarySearch(space_of((1, 1, 1), 4, 0.5), EvolutionConfig())
    with pytest.raises(InputError, match="no best schedule yet"):
        _ = algorithm.best
    first = algorithm.ask()
    assert algorithm.ask() == first
    algorithm.tell([(first[0], 1.0)])
    assert algorithm.ask() == first[1:]
    with pytest.raises(InputError, match="does not wait"):
        algorithm.tell([(first[0], 1.0)])
    with pytest.raises(InputError, match="does not wait"):
        algorithm.tell([(Candidate((9, 9, 9), 0, 0), 1.0)])


def test_other_seeds_search_elsewhere_but_the_same_seed_repeats() -> None:
    space = space_of((2,) * 8, 16, 0.5)
    runs = [search_schedule(rough, space, EvolutionConfig(generations=5, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].history != runs[2].history


def test_a_search_without_generations_evaluates_the_starts() -> None:
    result = search_schedule(rough, space_of((2,) * 8, 16, 0.5), EvolutionConfig(generations=0))
    assert result.evaluated == 20
    assert len(result.history) == 1


def test_more_survivors_than_schedules() -> None:
    space = space_of((1, 1), 3, 0.5)
    assert search_schedule(rough, space, EvolutionConfig(survivors=50)).evaluated == len(all_schedules(space))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"generations": -1}, "generations=-1"),
        ({"survivors": 0}, "survivors=0"),
        ({"offspring": 0}, "offspring=0"),
        ({"max_mutation": 0}, "max_mutation=0"),
        ({"seed": -1}, "seed=-1"),
        ({"max_redraws": -1}, "max_redraws=-1"),
        ({"starts": ("uniform", "frnt")}, "did you mean 'front'"),
    ],
)
def test_impossible_settings_are_refused(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvolutionConfig(**settings_)  # type: ignore[arg-type]
