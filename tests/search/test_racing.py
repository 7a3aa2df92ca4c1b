"""Racing: what is dropped could not have been selected, and a race does not depend on order or interruption."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diff_es.baselines import settings_for
from diff_es.errors import InputError
from diff_es.schedule import Levels
from diff_es.search import (
    Candidate,
    EvolutionarySearch,
    EvolutionConfig,
    Journal,
    JournalHeader,
    Outcome,
    Racing,
    Rival,
    SearchResult,
    Trial,
    search_schedule,
    search_with,
)

from .landscapes import SPACE, rugged, separable

PROBES, BATCH = 16, 4
CONFIG = EvolutionConfig(generations=12, seed=3, racing=Racing())


def scores_of(levels: Levels, noise: float = 0.5) -> list[float]:
    """A landscape seen through probes: some are harder than others, and each likes other schedules a little better."""
    hardness = np.random.default_rng(0).normal(size=PROBES)
    own = np.random.default_rng(levels).normal(size=PROBES)
    return [float(value) for value in separable(0)(levels) + hardness + noise * own]


def race(levels: Levels, rival: Rival | None = None) -> Outcome:
    """Score batch after batch, and stop where the rival is out of reach: written without the rest of the library."""
    scores = scores_of(levels)
    for count in range(BATCH, PROBES, BATCH):
        estimate = rival.estimate(scores[:count]) if rival is not None else None
        if estimate is not None:
            return Outcome(estimate, count, 0, tuple(scores[:count]), dropped=True)
    return Outcome(math.fsum(scores) / PROBES, PROBES, 0, tuple(scores))


def run(path: Path, config: EvolutionConfig = CONFIG) -> tuple[SearchResult, list[Outcome]]:
    with Journal(path, JournalHeader("race", SPACE, config)) as journal:
        result = search_schedule(race, SPACE, config, journal)
        entries = sorted(journal.entries(), key=lambda entry: entry.key)
        return result, [entry.outcome for entry in entries]


def test_racing_saves_probes_and_ends_with_the_same_schedule(tmp_path: Path) -> None:
    result, outcomes = run(tmp_path / "raced")
    full, all_scored = run(tmp_path / "full", replace(CONFIG, racing=None))
    assert result.levels == full.levels
    assert result.fitness == full.fitness == math.fsum(scores_of(result.levels)) / PROBES
    assert sum(outcome.denoiser_calls for outcome in outcomes) < 0.7 * len(outcomes) * PROBES
    assert all(outcome.denoiser_calls == PROBES and not outcome.dropped for outcome in all_scored)


@given(st.integers(0, 10_000), st.floats(0.05, 4), st.integers(2, 8), st.floats(0.01, 3))
@settings(max_examples=60, deadline=None)
def test_a_dropped_candidate_never_survives(seed: int, margin: float, first: int, noise: float) -> None:
    """However early and however wrongly it is dropped: margins far below any sensible one are among the examples."""
    config = EvolutionConfig(generations=6, survivors=3, offspring=8, seed=seed, racing=Racing(first, margin))
    algorithm = EvolutionarySearch(SPACE, config)
    scored: dict[Levels, tuple[float, ...]] = {}
    dropped: set[Levels] = set()
    while not algorithm.done:
        contest = algorithm.race
        for candidate in algorithm.ask():
            scores = tuple(scores_of(candidate.levels, noise))
            fitness = math.fsum(scores) / PROBES
            if contest is not None:
                fitnesses = tuple(survivor.fitness for survivor in contest.survivors)
                known = tuple(scored[survivor.levels] for survivor in contest.survivors)
                rival = Rival(fitnesses, known, contest.racing)
                estimate = rival.estimate(scores[:first])
                if estimate is not None:
                    assert estimate < min(fitnesses)
                    dropped.add(candidate.levels)
                    fitness = estimate
            scored[candidate.levels] = scores
            algorithm.tell([(candidate, fitness)])
        assert not dropped & {survivor.levels for survivor in algorithm.population}
    assert algorithm.best.levels not in dropped


def test_the_bound_is_the_one_of_a_sample_without_replacement() -> None:
    """Recomputed with scipy and numpy: what must be beaten, by which survivor, and what the algorithm is told."""
    draw = np.random.default_rng(4)
    decided: set[tuple[bool, int]] = set()
    for _ in range(300):
        theirs = draw.normal(size=(3, PROBES))
        ours = theirs[draw.integers(3), :6] + draw.normal(-0.6, 0.8, size=6)
        rival = Rival(tuple(theirs.mean(axis=1).tolist()), tuple(map(tuple, theirs.tolist())), Racing(4, 1.5))
        differences = ours - theirs[:, :6]
        errors = stats.sem(differences, axis=1) * math.sqrt(10 / 16)
        nearest = int(errors.argmin())
        guess = theirs[nearest].mean() + differences[nearest].mean()
        estimate = rival.estimate(ours.tolist())
        decided.add((estimate is None, nearest))
        assert (estimate is not None) == (guess + 1.5 * errors[nearest] < theirs.mean(axis=1).min())
        if estimate is not None:
            assert estimate == pytest.approx(guess, abs=1e-12)
    assert decided == {(dropped, nearest) for dropped in (True, False) for nearest in range(3)}


def test_the_standard_error_is_that_of_the_mean_over_all_probes() -> None:
    """Simulated: of many random orders of the same probes, the first n estimate the mean over all of them."""
    values, count = np.random.default_rng(1).normal(size=PROBES), 4
    dice = np.random.default_rng(2)
    means = [dice.permutation(values)[:count].mean() for _ in range(20_000)]
    predicted = statistics.stdev(values) * math.sqrt((1 - count / PROBES) / count)
    assert statistics.pstdev(means, values.mean()) == pytest.approx(predicted, rel=0.02)


RIVAL = Rival((0.0,), ((0.0,) * 8,), Racing(first=3, margin=2.0))


@pytest.mark.parametrize(
    ("scores", "estimate"),
    [
        ((-1.0, -1.0), None),
        ((-1.0, -1.0, -1.0), -1.0),
        ((1.0, 1.0, 1.0), None),
        ((0.0, 0.0, 0.0), None),
        ((-1e-20, -1e-20, -1e-20), -1e-20),
        ((-3.0, 3.0, -3.0), None),
        ((-1.0, -math.inf, -1.0), None),
        ((math.inf, -5.0, -5.0), None),
        ((-1.0,) * 8, None),
    ],
    ids=["too few", "worse", "better", "equal", "hardly worse", "unclear", "minus infinity", "infinity", "all probes"],
)
def test_when_a_candidate_is_dropped(scores: tuple[float, ...], estimate: float | None) -> None:
    assert RIVAL.estimate(scores) == estimate


def test_nan_is_dropped_at_once_and_infinite_differences_never() -> None:
    assert math.isnan(RIVAL.estimate((math.nan,)) or 0)
    assert RIVAL.estimate((math.nan,) * 8) is None, "the mean over all probes says it"
    dense = Rival((math.inf,), ((math.inf,) * 8,), Racing())
    assert dense.estimate((math.inf,) * 4) is dense.estimate((1.0,) * 4) is None


def test_a_difference_too_small_for_the_fitness_is_no_reason_to_drop() -> None:
    """1 − 1e-20 is 1 in floating point: told that, the algorithm would see a tie."""
    assert Rival((1.0,), ((1.0, 0.0, 0.0, 0.0, 4.0),), Racing()).estimate((1.0, -1e-20, -1e-20, -1e-20)) is None


def test_the_race_is_fixed_at_the_start_of_a_generation() -> None:
    algorithm = EvolutionarySearch(SPACE, CONFIG)
    assert algorithm.race is None, "the start population is scored in full"
    algorithm.tell([(candidate, rugged(0)(candidate.levels)) for candidate in algorithm.ask()])
    survivors = algorithm.population
    for candidate in algorithm.ask():
        assert algorithm.race is not None
        assert algorithm.race.survivors == survivors
        algorithm.tell([(candidate, 100.0)])
    assert algorithm.race is not None
    assert [survivor.fitness for survivor in algorithm.race.survivors] == [100.0] * CONFIG.survivors


def test_no_race_after_a_restart_nor_with_room_nor_against_nan() -> None:
    restarted = EvolutionarySearch(SPACE, replace(CONFIG, generations=50, survivors=1, offspring=60, max_mutation=1))
    races = []
    while not restarted.done:
        restarts = restarted._restarted
        races.append((restarts, restarted.race is None))
        restarted.tell([(candidate, separable(0)(candidate.levels)) for candidate in restarted.ask()])
    assert (True, True) in races and (True, False) not in races
    roomy = EvolutionarySearch(SPACE, replace(CONFIG, survivors=30, starts=("uniform",)))
    roomy.tell([(candidate, 1.0) for candidate in roomy.ask()])
    assert len(roomy.population) == 1 and roomy.race is None
    broken = EvolutionarySearch(SPACE, CONFIG)
    broken.tell([(candidate, math.nan if candidate.child else 1.0) for candidate in broken.ask()])
    assert broken.race is None


def test_a_race_depends_on_neither_order_nor_interruption(tmp_path: Path) -> None:
    expected, outcomes = run(tmp_path / "straight")
    assert {outcome.dropped for outcome in outcomes} == {True, False}
    content, dice = (tmp_path / "straight").read_bytes(), random.Random(5)
    for cut in (len(content), *(dice.randrange(len(content)) for _ in range(10))):
        path = tmp_path / "cut"
        path.write_bytes(content[:cut])
        assert run(path) == (expected, outcomes)

    def shuffled(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome, float]]:
        for trial in dice.sample(trials, len(trials)):
            yield trial, race(trial.candidate.levels, trial.rival), 0.0

    with Journal(tmp_path / "shuffled", JournalHeader("race", SPACE, CONFIG)) as journal:
        assert search_with(EvolutionarySearch(SPACE, CONFIG), shuffled, journal, seed=3) == expected
        assert [entry.outcome for entry in sorted(journal.entries(), key=lambda entry: entry.key)] == outcomes


def test_dropped_candidates_are_marked_in_the_journal(tmp_path: Path) -> None:
    _, outcomes = run(tmp_path / "j")
    for outcome in outcomes:
        assert outcome.dropped == (len(outcome.scores) < PROBES)
    assert {len(outcome.scores) for outcome in outcomes if outcome.dropped} <= {4, 8, 12}


def test_a_fitness_without_scores_cannot_race() -> None:
    with pytest.raises(InputError, match="the fitness gives no scores per probe"):
        search_schedule(rugged(0), SPACE, CONFIG)


def test_only_the_evolution_races() -> None:
    assert settings_for("evolution", SPACE, CONFIG) == CONFIG
    with pytest.raises(InputError, match="racing: greedy scores every schedule on all probes"):
        settings_for("greedy", SPACE, CONFIG)


@pytest.mark.parametrize(("racing", "message"), [((1, 3.0), "first=1"), ((4, 0.0), "margin=0"), ((4, math.nan), "nan")])
def test_impossible_races_are_refused(racing: tuple[int, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Racing(*racing)


def test_a_rival_is_part_of_a_trial() -> None:
    """An evaluator may keep trials in sets, as the loop does."""
    trial = Trial(Candidate((1, 2), 0, 0), RIVAL)
    assert trial in {trial} and trial != Trial(trial.candidate)


def test_the_survivor_that_a_candidate_resembles_decides() -> None:
    """Exactly 0.2 below the better survivor, which is 0.1 above the worst; the worst alone would tell nothing."""
    better, worst = (0.9, 0.1, 0.8, 0.2, 0.5, 0.5), (0.1, 0.7, 0.2, 0.6, 0.4, 0.4)
    scores = [score - 0.2 for score in better[:4]]
    assert Rival((0.5, 0.4), (better, worst), Racing()).estimate(scores) == pytest.approx(0.3)
    assert Rival((0.4,), (worst,), Racing()).estimate(scores) is None
