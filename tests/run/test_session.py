"""Sessions that share a bank, seeds of a search's own, and every search algorithm from a recipe to a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diff_es.artifacts import read_record
from diff_es.baselines import algorithms, three_stage
from diff_es.calibration import SamplingSource
from diff_es.fitness import BatchChoice, bytes_beside_dense
from diff_es.run import Session, compress
from diff_es.run.estimate import estimate
from diff_es.sampling import ImageRequests, SamplerConfig
from diff_es.search import SearchResult
from diff_es.views import estimate_table
from run.tiny_run import Finished, canonical_journal, outcome, tiny_recipe

ALGORITHMS = ("evolution", "random", "greedy", "hill-climb", "stagewise-dp", "uniform", "three-stage")


def test_a_bank_in_stock_is_not_made_again(finished: Finished, tmp_path: Path) -> None:
    """Without a pipeline nothing could be calibrated, pruned or measured."""
    session = Session(finished.recipe, tmp_path / "own", pipe=object(), stock=finished.folder)
    assert session.bank.num_levels == session.sensitivity.levels[-1] == 4
    assert not (tmp_path / "own").exists()


def test_two_sessions_share_what_the_first_has_made(finished: Finished, tmp_path: Path) -> None:
    stock, before = tmp_path / "stock", outcome(finished.folder)
    for name in ("first", "second"):
        session = Session(finished.recipe, tmp_path / name, stock=stock)
        session.search("sensitivity")
        if name == "first":
            written = {path: path.stat().st_mtime_ns for path in stock.rglob("*") if path.is_file()}
    assert {path: path.stat().st_mtime_ns for path in stock.rglob("*") if path.is_file()} == written
    shared = {name: kept for name, kept in outcome(stock).items() if not name.endswith(".lock")}
    assert shared == {name: before[name] for name in shared}, "what is shared is what a run alone would make"
    assert {"bank/stage-00.safetensors", "search/sensitivity.json"} <= set(shared)
    for name in ("first", "second"):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["search"]
        found = read_record(tmp_path / name / "search" / "sensitivity" / "result.json", SearchResult)
        assert found == finished.result.search


def test_a_measured_batch_size_is_kept_for_later_and_for_others(finished: Finished, tmp_path: Path) -> None:
    """Fitness values depend on it in their last bits, and another measurement might choose another."""
    recipe = tiny_recipe(finished.model, search={"batch_size": "auto"})
    chosen = Session(recipe, tmp_path / "run", stock=tmp_path / "stock").search_batch_size
    path = tmp_path / "stock" / "search" / "batch_size.json"
    kept = json.loads(path.read_text())
    assert str(chosen) in kept["seconds_per_probe"]
    kept["batch_size"] = 1 + chosen
    path.write_text(json.dumps(kept))
    other = Session(recipe, tmp_path / "other", pipe=object(), stock=tmp_path / "stock")
    assert other.search_batch_size == 1 + chosen, "measured anew"
    assert Session(finished.recipe, tmp_path / "plain", pipe=object()).search_batch_size == 2


def test_a_batch_size_is_measured_beside_what_the_search_keeps(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(finished.model, search={"batch_size": "auto"})
    session = Session(recipe, tmp_path / "run", memory_limit=100 * 2**20)
    told: list[int] = []

    def choose(pipe: Any, probes: ImageRequests, sampler: SamplerConfig, occupied_bytes: int = 0) -> BatchChoice:
        told.append(occupied_bytes)
        return BatchChoice(1, {1: 1.0})

    monkeypatch.setattr("diff_es.run.session.choose_batch_size", choose)
    assert session.search_batch_size == 1
    assert told == [bytes_beside_dense(session.pipe.transformer, session.planned_memory)]
    assert told[0] > 40 * 2**20, "a quarter of what is left for thin layers, and another for outputs"


def test_rounded_widths_reach_the_bank_and_the_estimate(finished: Finished, tmp_path: Path) -> None:
    """Seven levels of 64 channels: those that keep 27, 18 and 9 of them keep 32, 24 and 16 in multiples of 8."""
    recipe = tiny_recipe(finished.model, pruning={"levels": 7, "width_multiple": 8})
    session = Session(recipe, tmp_path)
    assert session.bank.info.width_multiple == 8
    (ffn,) = [layer for layer in session.pruner_config.layers(session.pipe.transformer)[:2] if layer.kind == "ffn"]
    assert len(session.bank.thin(0, ffn, 4).kept) == 32
    rounded, plain = estimate(session), estimate(Session(tiny_recipe(finished.model, pruning={"levels": 7}), tmp_path))
    assert (rounded.lost_to_rounding, plain.lost_to_rounding) == (7 / 64, 0)
    assert rounded.disk_bytes > plain.disk_bytes
    console = Console(width=100)
    for predicted, said in ((rounded, True), (plain, False)):
        with console.capture() as captured:
            console.print(estimate_table(predicted))
        assert ("10.9% of the channels" in captured.get()) == said


def test_a_search_seed_changes_the_search_and_nothing_else(finished: Finished, tmp_path: Path) -> None:
    recipes = [finished.recipe.changed({"search": {"seed": seed}}) for seed in (None, 0, 1)]
    default, same, other = (
        Session(recipe, tmp_path / str(i), stock=finished.folder) for i, recipe in enumerate(recipes)
    )
    assert default.search_probes() == same.search_probes() != other.search_probes()
    assert (default.evolution.seed, same.evolution.seed, other.evolution.seed) == (0, 0, 1)
    assert default.evaluation_images() == same.evaluation_images() == other.evaluation_images()
    for session in (default, same, other):
        assert isinstance(session.source, SamplingSource)
    assert default.source.requests == other.source.requests
    results = [session.search("uniform") for session in (default, same, other)]
    assert results[0] == results[1] == read_record(finished.folder / "search" / "uniform" / "result.json", SearchResult)
    journals = [canonical_journal(tmp_path / str(i) / "search" / "uniform" / "journal.jsonl") for i in range(3)]
    assert journals[0] == journals[1] != journals[2]
    headers = [
        json.loads((tmp_path / str(i) / "search" / "uniform" / "journal.jsonl").read_text().splitlines()[0])
        for i in range(3)
    ]
    assert headers[0] == headers[1] != headers[2]
    assert [header["fitness"]["seed"] for header in headers] == [0, 0, 1]


def test_probes_of_no_search_seed_are_evaluated(finished: Finished, tmp_path: Path) -> None:
    recipes = [finished.recipe.changed({"seed": a, "search": {"seed": b}}) for a in range(4) for b in range(4)]
    sessions = [Session(recipe, tmp_path, stock=finished.folder) for recipe in recipes]
    probes = {seed for session in sessions for seed in session.requests(0, 1000, session.search_seed).seeds}
    measured = {seed for session in sessions for seed in session.requests(1, 1000).seeds}
    assert not probes & measured
    assert set(sessions[0].search_probes().seeds) <= probes
    assert set(sessions[0].evaluation_images().seeds) <= measured


def test_these_are_all_algorithms() -> None:
    assert set(ALGORITHMS) == set(algorithms)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_runs_from_a_recipe_to_a_report(finished: Finished, tmp_path: Path, algorithm: str) -> None:
    recipe = tiny_recipe(
        finished.model,
        search={"algorithm": algorithm, "allocation": "uniform", "generations": 1},
        evaluation={"compare": [], "latency_batch_sizes": [1], "latency_repeats": 1},
    )
    folder = tmp_path / "run"
    session = Session(recipe, folder)
    predicted = estimate(session)
    result = compress(recipe, folder, pipe=session.pipe)
    assert session.space.contains(result.search.levels)
    assert result.search.evaluated <= predicted.evaluations == session.algorithm().max_evaluations
    name = "searched" if algorithm == "evolution" else algorithm
    assert [row.name for row in result.evaluation.schedules] == ["dense", f"{name}, uniform"]
    assert result.evaluation.schedules[1].levels == result.search.levels == result.pruned.info.schedule.levels
    assert f"{name}, uniform" in result.report.read_text()
    if algorithm in {"uniform", "three-stage"}:
        wanted = session.space.uniform() if algorithm == "uniform" else three_stage(session.plan, session.space)
        assert (result.search.levels, result.search.evaluated) == (wanted, 1)
    else:
        entries = canonical_journal(folder / "search" / "uniform" / "journal.jsonl")
        feasible = [entry for entry in entries if session.space.contains(tuple(entry[2]))]
        assert result.search.fitness == max(entry[3] for entry in feasible)
        assert len(entries) == result.search.evaluated > 1
    (folder / "search" / "uniform" / "result.json").unlink()
    assert compress(recipe, folder, pipe=session.pipe, resume=True).search == result.search


def test_a_recipe_can_race_and_resume(finished: Finished, tmp_path: Path) -> None:
    changes = {"probes": 4, "batch_size": 2, "racing_margin": 0.1, "racing_probes": 2, "generations": 3, "survivors": 1}
    recipe = finished.recipe.changed({"search": changes})
    session = Session(recipe, tmp_path / "raced", stock=finished.folder)
    result = session.search("uniform")
    journal = tmp_path / "raced" / "search" / "uniform" / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert {len(entry["scores"]) for entry in entries if entry["dropped"]} == {2}
    assert {len(entry["scores"]) for entry in entries if not entry["dropped"]} == {4}
    assert result.fitness == max(entry["fitness"] for entry in entries if not entry["dropped"])
    cut = tmp_path / "cut" / "search" / "uniform" / "journal.jsonl"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-2]))
    assert Session(recipe, tmp_path / "cut", stock=finished.folder).search("uniform") == result
    assert canonical_journal(cut) == canonical_journal(journal)
