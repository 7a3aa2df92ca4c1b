"""`make bench-gpu` without a GPU: limits, what a time limit leaves, and the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from . import conftest  # noqa: F401 (puts the benchmarks' folder on the path)


@pytest.fixture
def gpu() -> Any:
    import gpu as module  # noqa: PLC0415

    return module


def test_the_limits_add_up_to_less_than_eight_minutes(gpu: Any) -> None:
    assert sum(limit for limit, _ in gpu.COMMANDS.values()) <= 480 - 5


def test_every_command_can_be_parsed(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the device, which is not there."""
    for _, command in gpu.COMMANDS.values():
        small = "--rows 8 --columns 32" if "obs_solver" in command else ""
        script, *arguments = f"{command} {small}".split()
        assert (Path(gpu.__file__).parent / script).is_file()
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--device", "no-such-device"])
        module = __import__(script.removesuffix(".py"))
        with pytest.raises(RuntimeError, match="no-such-device"):
            module.main()


def record(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"benchmark": "candidate_cost", "model": "dit-xl", "rows": rows, **more}


START = {"evaluated": 20, "cost": 0.6, "calls_run": 0.9, "candidate_seconds": 6.0}
OFFSPRING = {"evaluated": 32, "cost": 0.3, "calls_run": 0.4, "candidate_seconds": 3.0}


def test_a_search_is_extrapolated_from_starts_once_and_offspring_for_the_rest(gpu: Any) -> None:
    row = {"allocation": "uniform", "starts": START, "offspring": OFFSPRING, "dense_rollout_seconds": 10.0}
    assert gpu.search_seconds(row) == 20 * 6.0 + 1580 * 3.0
    figures = {what: measured for what, measured, _ in gpu.cost_figures(record([row]))}
    assert figures["dit-xl, uniform: a start in dense rollouts"] == "0.600"
    assert figures["dit-xl, uniform: denoiser calls run of an offspring"] == "40.0%"
    assert figures["dit-xl, uniform: 1,600 candidates, extrapolated: GPU-hours"] == "1.35"
    assert figures["dit-xl, uniform: 1,600 candidates, extrapolated: dense rollouts each"] == "0.304"


def test_the_table_shows_only_what_was_asked_for(gpu: Any, tmp_path: Path) -> None:
    """Files of an earlier commit may lie beside it; and a time limit leaves a part."""
    solver = {"benchmark": "obs_solver", "seconds": 1.0, "speedup_vs_plain": 90.0}
    (tmp_path / "obs_solver_dit-xl_gpu.json").write_text(json.dumps(solver))
    part = record([{"allocation": "uniform", "starts": START, "dense_rollout_seconds": 10.0}])
    (tmp_path / "candidate_cost_dit-xl_gpu.json").write_text(json.dumps(part))
    table = gpu.table(tmp_path, ["candidate_cost_dit-xl_gpu"], {"candidate_cost_dit-xl_gpu": "took more than 3 s"})
    assert "OBS" not in table
    assert "took more than 3 s" in table
    assert "a start in dense rollouts" in table
    assert "extrapolated" not in table


def test_an_earlier_part_leaves_its_time(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def run(name: str, output: Path, device: str, limit: float) -> str:
        limits.append(limit)
        return ""

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="0"):
        gpu.main()
    assert limits[-1] == pytest.approx(sum(limit for limit, _ in gpu.COMMANDS.values()), abs=1)


def test_a_copy_without_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import results  # noqa: PLC0415

    monkeypatch.delenv("DIFF_ES_COMMIT", raising=False)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.code() == {"commit": "unknown", "uncommitted_changes": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.code()["commit"] == "unknown"
    monkeypatch.setenv("DIFF_ES_COMMIT", "abc")
    assert results.code() == {"commit": "abc", "uncommitted_changes": False}


def test_what_was_measured_before_a_time_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import results  # noqa: PLC0415

    path = tmp_path / "kept" / "part.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks/part.py", "--json", str(path)])
    results.keep_so_far({"benchmark": "part", "rows": [1]}, path)
    kept = json.loads(path.read_text())
    assert (kept["rows"], kept["unfinished"], kept["command"]) == ([1], True, "python benchmarks/part.py")
    results.finish({"benchmark": "part", "rows": [1, 2]}, path)
    assert "unfinished" not in json.loads(path.read_text())
    assert [file.name for file in path.parent.iterdir()] == ["part.json"]
