"""A real, tiny run by Ray workers gives what it gives in this process, whatever happens to the workers."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from diff_es.errors import InputError
from diff_es.execution import Patience, RayWorkers
from diff_es.metrics import metrics
from diff_es.run import Session, compress
from diff_es.run.workers import OpenSession
from diff_es.schedule import Levels
from diff_es.search import Outcome, SearchResult
from run.tiny_run import Finished, canonical_journal, finished_run, outcome

from .faulty import OpenFaulty

pytestmark = pytest.mark.usefixtures("one_ray")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp())


def opens(session: Session, kind: type[OpenSession] = OpenSession, **faults: Any) -> OpenSession:
    plain = OpenSession.of(session, threads=1)
    return kind(**{field.name: getattr(plain, field.name) for field in fields(plain)}, **faults)


def journal(folder: Path) -> list[tuple[Any, ...]]:
    return canonical_journal(folder / "search" / "sensitivity" / "journal.jsonl")


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_whole_run_does_not_depend_on_the_workers(finished: Finished, tmp_path: Path, count: int) -> None:
    compress(finished.recipe, tmp_path / "run", command="diff-es run tiny.yaml", workers=RayWorkers(count))
    mine, theirs = outcome(tmp_path / "run"), outcome(finished.folder)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


@pytest.mark.slow
def test_a_race_does_not_depend_on_the_workers(finished: Finished, tmp_path: Path) -> None:
    raced = {"probes": 4, "batch_size": 2, "racing_probes": 2, "racing_margin": 1e-6, "generations": 4}
    recipe = finished.recipe.changed({"search": raced})
    here, there = (Session(recipe, tmp_path / name, stock=finished.folder) for name in ("here", "there"))
    expected = here.search("sensitivity")
    with RayWorkers(2).start(opens(there), gpus=False) as there.workers:
        assert there.search("sensitivity") == expected
    assert journal(tmp_path / "there") == journal(tmp_path / "here")
    assert '"dropped":true' in (tmp_path / "there" / "search" / "sensitivity" / "journal.jsonl").read_text()


_METRIC = """
from diff_es import register_metric

register_metric("mine", lambda a, b: (a - b).flatten(1).abs().mean(1), higher_is_better=False, needs="latents")
"""


def test_what_is_registered_only_here_is_an_error_when_workers_open(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(metrics._entries, "mine", metrics["latent_mse"])
    recipe = finished.recipe.changed({"search": {"metric": "mine"}})
    with pytest.raises(InputError, match=r"In a worker: Unknown metric 'mine'.*imports=\(\"your_module\",\)"):
        compress(recipe, tmp_path / "run", workers=RayWorkers(1))
    assert not list((tmp_path / "run").rglob("*.safetensors")), "nothing was computed"
    (tmp_path / "my_metrics.py").write_text(_METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    session = Session(recipe, tmp_path / "other")
    with RayWorkers(1, imports=("my_metrics",)).start(opens(session), gpus=False) as workers:
        workers.wait_open()


def test_a_machine_without_the_current_directory_says_so(finished: Finished, tmp_path: Path) -> None:
    away = replace(opens(Session(finished.recipe, tmp_path / "run")), current=tmp_path / "away")
    with pytest.raises(InputError, match=r"In a worker on .*away, from which .*\(No such file"):
        away()


def search(finished: Finished, folder: Path, patience: Patience, **faults: Any) -> SearchResult:
    """Search on two workers with faults, with the bank of the finished run."""
    folder.mkdir()
    session = Session(finished.recipe, folder, stock=finished.folder)
    factory = opens(session, OpenFaulty, marks=folder, **faults)
    with RayWorkers(2, patience=patience).start(factory, gpus=False) as session.workers:
        return session.search("sensitivity")


class _Avoiding(Session):
    """Scores in this process, and gives one schedule what a fatal one gets."""

    avoided: Levels = ()

    def fitness(self, allocation: str) -> Any:
        real = super().fitness(allocation)
        return lambda levels, *rival: Outcome(-math.inf) if levels == self.avoided else real(levels, *rival)


def test_deaths_and_hangs_change_nothing_but_a_fatal_candidate(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker is killed in mid-candidate, one hangs, and one candidate kills every worker."""
    poison = tuple(journal(finished.folder)[0][2])
    expected = _Avoiding(finished.recipe, tmp_path / "expected", stock=finished.folder)
    expected.avoided = poison
    best = expected.search("sensitivity")
    killed, hung = (tuple(journal(tmp_path / "expected")[place][2]) for place in (1, -1))
    result = search(finished, tmp_path / "run", Patience(least=3.0), poison=poison, killed=killed, hung=hung)
    assert {"killed", "hung"} <= {path.name for path in (tmp_path / "run").iterdir()}, "both happened"
    assert result == best
    assert journal(tmp_path / "run") == journal(tmp_path / "expected"), "nothing lost, nothing twice"
    assert {tuple(levels): value for _, _, levels, value in journal(tmp_path / "run")}[poison] == "-inf"
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "diff_es.run.tasks"]
    assert str(poison) in warning
    assert "gets −inf" in warning
    assert f"1 of {result.evaluated} schedules could not be measured and count as −inf: 1 × " in caplog.text
    (tmp_path / "run" / "search" / "sensitivity" / "result.json").unlink()
    again = Session(finished.recipe, tmp_path / "run", stock=finished.folder).search("sensitivity")
    assert again == finished.result.search, "nobody's fault is kept against a candidate"
