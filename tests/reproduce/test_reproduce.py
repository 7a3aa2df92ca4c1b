"""A table from start to end on the tiny model: rows, claims, files, resuming, and sharing the work."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diff_es.artifacts import held
from diff_es.errors import InputError
from diff_es.evaluation import Measurement
from diff_es.reproduce import Expectation, Reproduced, reproduce, tables
from diff_es.reproduce.claims import examined
from diff_es.reproduce.columns import columns
from diff_es.reproduce.files import write_files
from diff_es.reproduce.result import ClaimResult, RowResult, TableResult
from diff_es.reproduce.scale import Scale
from reproduce.tiny_table import TABLE, tiny_judge, tiny_scale


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    tables.register(TABLE.name, TABLE)
    yield
    del tables._entries[TABLE.name]


@pytest.fixture(scope="module")
def expected() -> list[Expectation]:
    return []


@pytest.fixture(scope="module")
def made(registered: None, expected: list[Expectation], tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    base = tmp_path_factory.getbasetemp()
    folder = tmp_path_factory.mktemp("tables")
    scale = tiny_scale(base)
    return reproduce("tiny", folder, scale=scale, device="cpu", judge=tiny_judge(), announce=expected.append)


def test_every_row_is_there_with_its_searches(made: Reproduced) -> None:
    names = [row.name for row in made.result.rows]
    assert names == ["dense", "uniform", "searched", "greedy", "fewer steps"]
    assert [len(row.searches) for row in made.result.rows] == [0, 1, 2, 2, 1]
    for row in made.result.rows[1:]:
        assert all(sum(own.levels) == 6 for own in row.searches), "half of H = 4 in each of three equal stages"
        assert (0.3 if row.name != "fewer steps" else 0.15) < row.cost.macs_ratio < 0.9
    searched = made.result.row("searched").searches
    assert {own.seed for own in searched} == {0, 1}
    greedy = made.result.row("greedy").searches
    assert all(mine.evaluated <= max(own.evaluated for own in searched) + 3 for mine in greedy)


def test_dense_is_measured_against_itself(made: Reproduced) -> None:
    ssim = made.result.rows[0].measurement("ssim")
    assert ssim is not None and ssim.value == pytest.approx(1) and ssim.interval == pytest.approx((1, 1))
    assert ssim.reference == "dense" and ssim.samples.count == 8


def test_a_row_with_another_sampler_is_compared_with_its_own_dense_model(made: Reproduced) -> None:
    """Its images with the dense model's under that sampler, its MACs with those of the table's dense model."""
    dense, uniform, fewer = (made.result.row(name) for name in ("dense", "uniform", "fewer steps"))
    assert fewer.cost.macs * 2 == uniform.cost.macs, "three steps of six"
    assert fewer.cost.macs_ratio == fewer.cost.macs / dense.cost.macs == uniform.cost.macs_ratio / 2
    stored = [path for path in (made.folder.parents[1] / "work" / "tiny" / "dense").iterdir() if path.is_dir()]
    assert len(stored) == 2
    ssim = fewer.measurement("ssim")
    assert ssim is not None and 0 < ssim.value < 1
    assert fewer.cost.latency == (), "it does not alternate with the others"


def test_a_row_is_the_mean_of_its_searches(made: Reproduced) -> None:
    work = made.folder.parents[1] / "work" / "tiny" / "searches"
    found = sorted(work.glob("obs-0.5-evolution-*/images/quality.json"))
    values = [json.loads(path.read_text())["values"]["quarter_frechet"] for path in found]
    record = made.result.row("searched").measurement("quarter_frechet")
    assert len(values) == 2 and record is not None
    assert record.value == pytest.approx(np.mean(values))
    assert record.interval is not None and record.interval[0] <= record.value <= record.interval[1]
    assert record.weights == "0" * 64 and record.reference == "40 images of noise" and not record.higher_is_better


def test_claims_are_judged_by_what_was_measured(made: Reproduced) -> None:
    frechet, ssim, latency, runtime, macs, memory = made.result.claims
    assert frechet.paper == (5.0, 9.0) and frechet.metric == "quarter_frechet" and not frechet.higher_is_better
    for claim in (frechet, ssim):
        assert claim.interval is not None
        better, worse = claim.ours
        advantage = better - worse if claim.higher_is_better else worse - better
        assert claim.interval[0] <= advantage <= claim.interval[1]
    own, dense = made.result.row("searched").cost.latency_of(2), made.result.row("dense").cost.latency_of(2)
    assert latency.ours == (own.median_ms, dense.median_ms) and latency.paper == (60.0, 80.0)
    assert runtime.interval is None and runtime.ours[0] < runtime.ours[1] and runtime.verdict == "holds"
    assert macs.ours[1] == 1 and macs.paper == (20.0, 50.0) and macs.verdict == "holds"
    assert memory.ours[0] < memory.ours[1] and memory.verdict == "holds"
    assert all(claim.examination for claim in made.result.claims if claim.verdict != "holds")


def test_a_time_that_was_not_measured_is_left_open(made: Reproduced, tmp_path: Path) -> None:
    rows = tuple(
        replace(row, searches=tuple(replace(own, bank_seconds=None) for own in row.searches))
        for row in made.result.rows
    )
    write_files(tmp_path, TABLE, replace(made.result, rows=rows))
    with (tmp_path / "table.csv").open() as file:
        times = [line["ours"] for line in csv.DictReader(file) if line["metric"] == "runtime_seconds"]
    assert times == [""] * 5 and "nan" not in (tmp_path / "table.md").read_text()


def test_a_heading_names_the_metric_of_the_paper_where_the_paper_has_values(made: Reproduced) -> None:
    titles = {column.key: column.paper for column in columns(made.result)}
    assert titles["ssim"] == "" and titles["macs_ratio"] == "MACs"
    rows = tuple(replace(row, quality=_as_agreement(row)) for row in made.result.rows)
    with_clip = (replace(rows[0], paper={"CLIP score": 0.3}), *rows[1:])
    assert "CLIP score" not in [column.paper for column in columns(replace(made.result, rows=rows))]
    assert "CLIP score" in [column.paper for column in columns(replace(made.result, rows=with_clip))]


def _as_agreement(row: RowResult) -> tuple[Measurement, ...]:
    """The row's first measurement under the name that stands for the paper's CLIP score."""
    return (replace(row.quality[0], metric="label_agreement"),)


def test_two_rows_of_one_search_say_nothing_of_the_search(made: Reproduced) -> None:
    """As a row and the same row measured under a cache."""
    one, greedy = made.result.row("searched"), made.result.row("greedy")
    rows = {"searched": one, "cached": replace(one, name="cached"), "greedy": greedy}
    claim = ClaimResult("searched", "cached", "FID", "quarter_frechet", False, (5.0, 4.0), None, (-2.0, -0.5))
    same, other = examined([claim, replace(claim, worse="greedy")], rows, "ssim")
    assert "own probes" in other.examination and "own probes" not in same.examination


def test_rows_of_one_group_follow_each_other() -> None:
    """They share a heading in the report."""
    rows = (TABLE.rows[0], replace(TABLE.rows[1], group="other"), TABLE.rows[2])
    with pytest.raises(InputError, match=r"rows of one group apart: \['OBS', 'other', 'OBS'\]"):
        replace(TABLE, rows=rows, claims=(), memory="")


def test_the_files_say_what_the_record_says(made: Reproduced) -> None:
    assert TableResult.read(made.folder / "result.json") == made.result
    with (made.folder / "table.csv").open() as file:
        values = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    record = made.result.row("searched").measurement("ssim")
    assert record is not None
    assert float(values["searched", "ssim"]["ours"]) == pytest.approx(record.value, rel=1e-5)
    assert values["uniform", "quarter_frechet"]["paper"] == ""
    with (made.folder / "claims.csv").open() as file:
        assert [line["verdict"] for line in csv.DictReader(file)] == [own.verdict for own in made.result.claims]
    text = (made.folder / "table.md").read_text()
    assert "A tiny table" in text and "## Memory" in text and "resident before stitched" in text
    html = made.report.read_text()
    assert "p10–p90: " in html and "(p10–p90) |" in text, "latencies have no 95 % interval"
    assert "A tiny table" in html and "http://" not in html.replace("http://www.w3.org", "")


def test_a_second_time_nothing_is_made_again(
    made: Reproduced, expected: list[Expectation], tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = made.folder.parents[1] / "work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.json*")}
    again: list[Expectation] = []
    scale = tiny_scale(tmp_path_factory.getbasetemp())
    output = made.folder.parents[1]
    result = reproduce("tiny", output, scale=scale, device="cpu", judge=tiny_judge(), announce=again.append)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.json*")} == before
    assert result.result == made.result
    assert (expected[0].banks, expected[0].searches, expected[0].images) == (2, 6, 48)
    assert (again[0].banks, again[0].searches, again[0].images) == (0, 0, 0)


def test_costs_of_another_budget_are_measured_anew(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same folder; and what was kept brings the environment in which it was measured."""
    table = replace(TABLE, name="short", rows=TABLE.rows[:1], claims=(), latency=(), memory="")
    monkeypatch.setitem(tables._entries, table.name, table)
    scale, judge = tiny_scale(tmp_path_factory.getbasetemp()), tiny_judge()
    sparser = scale.changed({"search": {"sparsity": 0.25}})
    first, other = (
        reproduce("short", tmp_path, scale=own, device="cpu", judge=judge).result for own in (scale, sparser)
    )
    assert other.row("uniform").cost.macs > first.row("uniform").cost.macs
    for kept in (tmp_path / "work" / "tiny" / "costs").glob("*.json"):
        kept.write_text(kept.read_text().replace('"cpu_count": ', '"cpu_count": 9'))
    again = reproduce("short", tmp_path, scale=scale, device="cpu", judge=judge).result
    assert again.row("uniform").cost == first.row("uniform").cost
    assert again.environment.cpu_count == int(f"9{first.environment.cpu_count}")


def test_an_unknown_table_or_scale_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'table1"):
        reproduce("tabel1", tmp_path)
    with pytest.raises(InputError, match="scale='smal': did you mean 'small'"):
        reproduce("table1", tmp_path, scale="smal")


def test_a_lock_of_another_process_is_waited_for(tmp_path: Path) -> None:
    with held(tmp_path / ".lock") as mine, held(tmp_path / ".lock") as second:
        assert mine and not second
    with held(tmp_path / ".lock") as mine:
        assert mine


def test_the_papers_scale_takes_the_papers_numbers() -> None:
    """Section 4 and appendix C: DiT 64 probes and 50,000 images, SDXL 4 and 5,000, FLUX 4 probes, 50 generations."""
    scale = Scale.load("paper")
    for table, row, wanted in (
        ("table1", "OBS 50 %, Diff-ES", (100, 64, 50_000)),
        ("table5", "0.5 × the probes", (100, 32, 50_000)),
        ("table2", "OBS 30 %, Diff-ES", (100, 4, 5_000)),
        ("table5-sdxl", "0.25 × the probes", (100, 1, 5_000)),
        ("table5-sdxl", "1.5 × the generations", (150, 4, 5_000)),
        ("table9", "LayerDrop 20 %, Diff-ES", (50, 4, 5_000)),
    ):
        (recipe,) = next(own for own in tables[table].rows if own.name == row).recipes(scale)
        assert (recipe.search.generations, recipe.search.probes, recipe.evaluation.images) == wanted


def test_tables_four_and_eight_search_the_same_schedules() -> None:
    """A row of several tables is searched once: its recipes are equal."""
    scale = Scale.load("small")
    fours = [recipe for row in tables["table4"].at("small").rows for recipe in row.recipes(scale)]
    eights = [recipe for row in tables["table8"].at("small").rows for recipe in row.recipes(scale)]
    assert len(fours) == 9 and len(eights) == 30
    assert sum(recipe in eights for recipe in fours) == 6, "by SSIM and by latent MSE, three searches each"
