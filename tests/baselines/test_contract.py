"""What every search algorithm must keep, whatever its idea."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import finish, make, plan_of

from diff_es.baselines import BaselineConfig, ProposalSearch, algorithms, journal_header, settings_for
from diff_es.errors import ArtifactError, InputError
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import Candidate, EvolutionConfig, Journal, SearchResult, in_process, search_with
from search.journals import sorted_keys
from search.spaces import space_of, spaces

NAMES = sorted(algorithms)
FIXED = {"uniform", "three-stage"}
SPACE = space_of((2, 2, 1, 3), 6, 0.5)
every_algorithm = pytest.mark.parametrize("name", NAMES)


def rough(levels: Levels) -> float:
    """A landscape without structure."""
    return random.Random(repr(levels)).random()


def test_the_algorithms_of_the_paper_and_more_are_there() -> None:
    assert NAMES == ["evolution", "greedy", "hill-climb", "random", "stagewise-dp", "three-stage", "uniform"]
    with pytest.raises(InputError, match="Unknown search algorithm 'gredy': did you mean 'greedy'"):
        settings_for("gredy", SPACE, EvolutionConfig())


@every_algorithm
@given(spaces(), st.integers(1, 3), st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_each_schedule_is_asked_once_and_the_best_meets_the_budget(
    name: str, space: ScheduleSpace, generations: int, seed: int
) -> None:
    algorithm = make(name, space, generations, seed)
    told = finish(algorithm, rough)  # checks that nothing is asked twice
    assert len(told) <= algorithm.max_evaluations <= 20 + 16 * generations
    inside = {levels: fitness for levels, fitness in told.items() if space.contains(levels)}
    assert algorithm.best.fitness == max(inside.values()) == inside[algorithm.best.levels]
    if name in {"random", "hill-climb", "evolution"}:
        assert inside == told


@every_algorithm
@given(spaces(max_stages=5), st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_the_history_counts_schedules_of_the_space(name: str, space: ScheduleSpace, seed: int) -> None:
    algorithm = make(name, space, 3, seed)
    told = finish(algorithm, rough)
    assert [record.generation for record in algorithm.history] == list(range(len(algorithm.history)))
    assert algorithm.history[-1].evaluated == len(told)
    assert [r.best for r in algorithm.history] == sorted(r.best for r in algorithm.history)
    for record in algorithm.history:
        part = {levels: told[levels] for levels in list(told)[: record.evaluated] if space.contains(levels)}
        ranked = sorted(part.values(), reverse=True)
        assert record.best == part[record.best_levels] == ranked[0]
        if name != "evolution":  # after a restart its population is not the best of everything
            assert (record.population.best, record.population.worst) == (ranked[0], ranked[:4][-1])


@every_algorithm
def test_as_many_evaluations_as_the_evolution(name: str) -> None:
    space = space_of((2,) * 10, 16, 0.5)
    evolution = make("evolution", space, 12)
    algorithm = make(name, space, 12)
    assert algorithm.max_evaluations == (1 if name in FIXED else evolution.max_evaluations)
    assert len(finish(algorithm, rough)) == algorithm.max_evaluations or name == "greedy"
    if name not in FIXED:
        assert [record.evaluated for record in algorithm.history][:12] == [20 + 16 * g for g in range(12)]


@every_algorithm
@given(st.randoms(use_true_random=False), st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_the_order_and_portions_of_telling_do_not_matter(name: str, order: random.Random, seed: int) -> None:
    straight, shuffled = make(name, SPACE, 3, seed), make(name, SPACE, 3, seed)
    finish(straight, rough)
    while not shuffled.done:
        candidates = shuffled.ask()
        assert shuffled.ask() == candidates
        order.shuffle(candidates)
        part = candidates[: order.randint(1, len(candidates))]
        shuffled.tell([(candidate, rough(candidate.levels)) for candidate in part])
    assert shuffled.history == straight.history
    assert shuffled.best == straight.best


@every_algorithm
def test_the_way_follows_from_seed_and_fitness(name: str) -> None:
    space = space_of((2,) * 6, 16, 0.5)
    ways = [list(finish(make(name, space, 3, seed), rough)) for seed in (1, 1, 2)]
    assert ways[0] == ways[1]
    if name in {"random", "hill-climb", "evolution"}:
        assert ways[0] != ways[2]


def search(name: str, path: Path) -> tuple[SearchResult, list[object], int]:
    """Run a search on a journal; return the result, the journal's content and how many schedules were measured."""
    measured: list[Levels] = []

    def fitness(levels: Levels) -> float:
        measured.append(levels)
        value = rough(levels)
        return math.nan if value < 0.2 else value

    config = settings_for(name, SPACE, EvolutionConfig(generations=2, seed=5))
    with Journal(path, journal_header(name, "model 7", SPACE, config)) as journal:
        result = search_with(algorithms[name](SPACE, plan_of(SPACE), config), in_process(fitness), journal, seed=5)
        return result, sorted_keys(journal), len(measured)


@every_algorithm
def test_a_journal_cut_anywhere_resumes_to_the_same_end(name: str, tmp_path: Path) -> None:
    result, canonical, measured = search(name, tmp_path / "straight")
    assert measured == len(canonical) == result.evaluated
    content = (tmp_path / "straight").read_bytes()
    cuts = random.Random(name)
    for cut in (len(content), *(cuts.randrange(len(content)) for _ in range(10))):
        path = tmp_path / "cut"
        path.write_bytes(content[:cut])
        whole_lines = max(content[:cut].count(b"\n") - 1, 0)  # the first line is the header
        assert search(name, path) == (result, canonical, measured - whole_lines)
        assert sorted(path.read_bytes().splitlines()[0]) == sorted(content.splitlines()[0])


def test_the_journal_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    search("random", tmp_path / "journal")
    with pytest.raises(ArtifactError, match="algorithm is 'random' there, 'hill-climb' here"):
        search("hill-climb", tmp_path / "journal")


@every_algorithm
@pytest.mark.parametrize("unusable", [math.nan, -math.inf])
def test_unusable_fitness_loses_against_everything(name: str, unusable: float) -> None:
    space = space_of((2,) * 6, 16, 0.5)
    first = make(name, space).ask()[0].levels  # the start is usable, so that there is a winner

    def fitness(levels: Levels) -> float:
        return unusable if levels != first and sum(levels[:3]) % 2 else -1e300 - sum(x * x for x in levels)

    algorithm = make(name, space, 10)
    told = finish(algorithm, fitness)
    usable = {levels: value for levels, value in told.items() if value > -math.inf and space.contains(levels)}
    assert algorithm.best.fitness == max(usable.values())
    if name not in FIXED:
        assert any(not value > -math.inf for value in told.values())
    assert all(not record.best < -1e301 for record in algorithm.history)


@every_algorithm
def test_nothing_usable_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="schedules of generation 0 got NaN"):
        search_with(make(name, SPACE), in_process(lambda _: math.nan), seed=0)


@pytest.mark.parametrize("name", ["greedy", "stagewise-dp"])
def test_nothing_usable_within_the_budget_is_an_error(name: str) -> None:
    """These two also look at schedules outside, which cannot be the result."""
    outside = in_process(lambda levels: math.nan if SPACE.contains(levels) else 1.0)
    with pytest.raises(InputError, match="every schedule that meets the budget got NaN"):
        search_with(make(name, SPACE), outside, seed=0)


@every_algorithm
def test_only_what_was_asked_can_be_told_and_only_once(name: str) -> None:
    algorithm = make(name, SPACE)
    with pytest.raises(InputError, match="no best schedule yet"):
        _ = algorithm.best
    first = algorithm.ask()[0]
    algorithm.tell([(first, 1.0)])
    for candidate in (first, Candidate((9, 9, 9, 9), 0, 0)):
        with pytest.raises(InputError, match="does not wait"):
            algorithm.tell([(candidate, 1.0)])


@every_algorithm
def test_settings_of_another_kind_are_refused(name: str) -> None:
    wrong = BaselineConfig(10) if name == "evolution" else EvolutionConfig()
    with pytest.raises(InputError, match="see settings_for"):
        algorithms[name](SPACE, plan_of(SPACE), wrong)


@pytest.mark.parametrize("field", ["evaluations", "max_mutation", "survivors", "offspring", "seed"])
def test_impossible_settings_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=rf"BaselineConfig.{field}=-1 must be at least"):
        BaselineConfig(**({"evaluations": 10} | {field: -1}))


def test_proposals_must_start_within_the_budget() -> None:
    with pytest.raises(InputError, match="first batch must hold a schedule that meets the budget"):
        ProposalSearch(SPACE, (batch for batch in [[(0, 0, 0, 0)]]), BaselineConfig(3))  # type: ignore[arg-type]


def test_a_repeated_proposal_is_answered_from_memory() -> None:
    uniform, answers = SPACE.uniform(), []

    def proposals():  # type: ignore[no-untyped-def]
        answers.append((yield [uniform, uniform]))
        answers.append((yield [uniform]))
        answers.append((yield [(0, 0, 0, 0), uniform]))

    told = finish(ProposalSearch(SPACE, proposals(), BaselineConfig(5)), rough)
    assert list(told) == [uniform, (0, 0, 0, 0)]
    assert answers == [{uniform: told[uniform]}] * 2 + [told]
