"""The benchmarks of published sizes, on tiny models of the same families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import RunBenchmark
from .tiny_sizes import STEPS, tiny_sizes

every_size = pytest.mark.parametrize("name", ["dit-xl", "sdxl", "flux"])


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from random_models import MODELS  # noqa: PLC0415 (conftest puts its folder on the path)

    for name, model in tiny_sizes(tmp_path).items():
        monkeypatch.setitem(MODELS, name, model)


@every_size
def test_latency_of_every_side(run_benchmark: RunBenchmark, name: str) -> None:
    record = run_benchmark("inference", name, "--batch-sizes", 1, 2, "--repeats", 1, "--schedule", "uniform")
    sides = [(row["side"], row["batch_size"]) for row in record["rows"]]
    assert sides == [(side, n) for n in (1, 2) for side in ("dense", "routed", "gather-in-forward", "stitched")]
    assert 0.4 < record["macs_ratio"] < 1
    assert "unfinished" not in record


def test_rows_before_a_failure_are_kept(
    run_benchmark: RunBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import inference  # noqa: PLC0415

    original, sizes = inference.measure_latency, iter((1, 2))

    def measure(*args: Any, **kwargs: Any) -> Any:
        if next(sizes) == 2:
            raise TimeoutError
        return original(*args, **kwargs)

    monkeypatch.setattr(inference, "measure_latency", measure)
    with pytest.raises(TimeoutError):
        run_benchmark("inference", "dit-xl", "--batch-sizes", 1, 2, "--repeats", 1, "--sides", "dense", "routed")
    kept = json.loads((tmp_path / "inference.json").read_text())
    assert kept["unfinished"]
    assert [(row["side"], row["batch_size"]) for row in kept["rows"]] == [("dense", 1), ("routed", 1)]
    assert kept["stage_switch_ms"] > 0


def test_the_starts_are_kept_before_their_offspring(
    run_benchmark: RunBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import candidate_cost  # noqa: PLC0415

    seen = []

    def keep(record: dict[str, Any], output: Path, device: str) -> None:
        seen.append(set(record["rows"][0]) & {"starts", "offspring"})

    monkeypatch.setattr(candidate_cost, "keep_so_far", keep)
    run_benchmark("candidate_cost", "--model", "dit-xl", "--generations", 1, "--probes", 2, "--batch-size", 2)
    assert seen == [{"starts"}, {"starts", "offspring"}]


@every_size
@pytest.mark.parametrize("setting", ["gather", "stitched"])
def test_memory_of_one_setting(run_benchmark: RunBenchmark, name: str, setting: str) -> None:
    record = run_benchmark("memory", name, "--dtype", "float32", "--batch-size", 1, "--settings", setting)
    assert set(record["settings"]) == {setting}
    assert (record["settings"][setting]["predicted_weight_bytes"] or 0) > 0 or setting != "gather"


@every_size
def test_memory_is_predicted(run_benchmark: RunBenchmark, name: str) -> None:
    found = run_benchmark("memory", name, "--dtype", "float32", "--predict")["weight_bytes"]
    assert set(found) == {"dense", "resident", "stream", "gather"}
    assert found["resident"] > found["dense"] > 0


@every_size
def test_starts_and_offspring_cost_apart(run_benchmark: RunBenchmark, name: str) -> None:
    record = run_benchmark("candidate_cost", "--model", name, "--generations", 1, "--probes", 2, "--batch-size", 2)
    (row,) = record["rows"]
    starts, offspring = row["starts"], row["offspring"]
    assert (starts["evaluated"], row["evaluated"]) == (20, 20 + offspring["evaluated"])
    assert 0 < offspring["calls_run"] < starts["calls_run"] <= 1, "more of an offspring is known"
    calls = starts["calls_run"] * 20 + offspring["calls_run"] * offspring["evaluated"]
    assert row["calls_run"] == pytest.approx(calls / row["evaluated"])
    assert row["candidate_seconds"] >= 0.9 * min(starts["candidate_seconds"], offspring["candidate_seconds"])
    assert (record["steps"], record["stages"]) == (STEPS, 4)
