"""A schedule that could not be measured is measured again by a resumed search, which ends as if nothing had failed."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from diff_es.baselines import algorithms, journal_header, settings_for
from diff_es.schedule import Levels
from diff_es.search import EvolutionConfig, Journal, JournalEntry, Outcome, Racing, SearchResult, Trial, search_with
from diff_es.search.journal import read_entries
from diff_es.search.journal_lines import seal
from diff_es.stages import StagePlan

from .landscapes import SPACE, rugged
from .test_racing import race

CONFIG = EvolutionConfig(generations=6, survivors=3, offspring=6, seed=3)
RACED = EvolutionConfig(generations=6, survivors=3, offspring=6, seed=3, racing=Racing(4, 0.5))
PLAN = StagePlan.split(tuple(range(sum(SPACE.calls), 0, -1)), SPACE.num_stages)


class InterruptedRunError(Exception):
    """Stands for whatever ends a run."""


@dataclass
class Workers:
    """Measures schedules, but for those of which the workers die.

    Attributes:
        fatal: Schedules that cannot be measured.
        limit: After so many results the run ends.
        measured: What was measured, failures included.
    """

    fatal: Collection[Levels] = ()
    limit: int = 10_000
    measured: list[Levels] = field(default_factory=list)

    def __call__(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome, float]]:
        for trial in trials:
            if len(self.measured) == self.limit:
                raise InterruptedRunError
            levels = trial.candidate.levels
            self.measured.append(levels)
            if levels in self.fatal:
                yield trial, Outcome(-math.inf, failure="signal 9"), 0.0
            else:
                yield trial, Outcome(rugged(2)(levels)), 0.0


@dataclass
class RacingWorkers(Workers):
    def __call__(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome, float]]:
        for trial, outcome, seconds in super().__call__(trials):
            yield trial, outcome if outcome.failure else race(trial.candidate.levels, trial.rival), seconds


def search(path: Path, workers: Workers, name: str = "evolution") -> SearchResult:
    config = RACED if isinstance(workers, RacingWorkers) else CONFIG
    settings = settings_for(name, SPACE, config)
    with Journal(path, journal_header(name, "x", SPACE, settings)) as journal:
        return search_with(algorithms[name](SPACE, PLAN, settings), workers, journal, seed=3)


def canonical(path: Path) -> list[tuple[object, ...]]:
    return sorted((*entry.key, entry.outcome) for entry in read_entries(path))


def some(entries: Sequence[JournalEntry], count: int, seed: int) -> list[Levels]:
    return [entry.candidate.levels for entry in random.Random(seed).sample(entries[1:], count)]


CASES = [*((name, Workers) for name in sorted(algorithms)), ("evolution", RacingWorkers)]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_a_resumed_search_ends_as_if_nothing_had_failed(name: str, kind: type[Workers], tmp_path: Path) -> None:
    expected = search(tmp_path / "straight", kind(), name)
    entries = read_entries(tmp_path / "straight")
    for seed in range(5):
        path = tmp_path / str(seed)
        fatal = some(entries, min(seed, len(entries) - 1), seed)
        search(path, kind(fatal), name)
        for limit in (3, 40):  # … and is stopped twice more on the way
            try:
                search(path, kind(limit=limit), name)
            except InterruptedRunError:
                path.write_bytes(path.read_bytes()[:-5])
        assert search(path, kind(), name) == expected
        assert canonical(path) == canonical(tmp_path / "straight")


def test_what_was_measured_after_the_failure_is_not_measured_again(tmp_path: Path) -> None:
    search(tmp_path / "straight", Workers())
    worst = min(read_entries(tmp_path / "straight"), key=lambda entry: entry.outcome.fitness).candidate.levels
    search(tmp_path / "j", Workers([worst]))
    again = Workers()
    search(tmp_path / "j", again)
    assert again.measured == [worst], "it changes nothing that the search did after it"
    assert canonical(tmp_path / "j") == canonical(tmp_path / "straight")


def test_a_kill_after_a_mended_failure_loses_nothing(tmp_path: Path) -> None:
    """Between two of one batch: what came after the batch has not been asked for again yet."""
    search(tmp_path / "straight", Workers())
    batch = [entry for entry in read_entries(tmp_path / "straight") if entry.candidate.generation == 1]
    fatal = [entry.candidate.levels for entry in sorted(batch, key=lambda entry: -entry.outcome.fitness)[:2]]
    search(tmp_path / "j", Workers(fatal))
    shutil.copy(tmp_path / "j", tmp_path / "killed")
    alone, before, after = Workers(), Workers(limit=1), Workers()
    search(tmp_path / "j", alone)
    with pytest.raises(InterruptedRunError):
        search(tmp_path / "killed", before)
    search(tmp_path / "killed", after)
    assert set(before.measured) < set(fatal)
    assert [*before.measured, *after.measured] == alone.measured
    assert canonical(tmp_path / "killed") == canonical(tmp_path / "j") == canonical(tmp_path / "straight")


def test_a_journal_only_grows(tmp_path: Path) -> None:
    search(tmp_path / "straight", Workers())
    search(tmp_path / "j", Workers(some(read_entries(tmp_path / "straight"), 3, 0)))
    before = (tmp_path / "j").read_bytes()
    search(tmp_path / "j", Workers())
    assert (tmp_path / "j").read_bytes().startswith(before)
    assert '{"rewound_to":' in (tmp_path / "j").read_text()


def test_what_fails_again_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(tmp_path / "straight", Workers())
    fatal = some(read_entries(tmp_path / "straight"), 2, 0)
    result = search(tmp_path / "j", Workers(fatal))
    before = (tmp_path / "j").read_bytes()
    assert '"failure":"signal 9"' in before.decode()
    caplog.clear()
    again = Workers(fatal)
    with caplog.at_level(logging.WARNING):
        assert search(tmp_path / "j", again) == result
    assert again.measured and set(again.measured) <= set(fatal)
    assert (tmp_path / "j").read_bytes() == before
    count = len(again.measured)
    assert f"{count} of {result.evaluated} schedules could not be measured" in caplog.text
    assert f"{count} × signal 9" in caplog.text


def test_a_journal_without_failures_is_read_as_before(tmp_path: Path) -> None:
    """Those that were written when entries did not have them."""
    search(tmp_path / "new", Workers())
    header, *lines = (tmp_path / "new").read_text().splitlines()
    old = [{key: value for key, value in json.loads(line).items() if key != "failure"} for line in lines]
    with (tmp_path / "old").open("wb") as file:
        file.write(header.encode() + b"\n")
        for content in old:
            del content["crc32"]
            file.write(seal(content))
    assert canonical(tmp_path / "old") == canonical(tmp_path / "new")
