"""Every benchmark can be imported and says what it takes; the quick ones are run."""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from .conftest import BENCHMARKS, RunBenchmark

MODULES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
SCRIPTS = [name for name in MODULES if "parser.parse_args()" in (BENCHMARKS / f"{name}.py").read_text()]


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    assert import_module(name).__doc__


def test_only_the_sizes_with_a_cache_need_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "DeepCache", None)
    for name in ("real_sizes", "random_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert import_module("random_models").MODELS


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_says_what_it_takes(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(name).main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name}.py")


def test_macs_of_dit_xl(run_benchmark: RunBenchmark) -> None:
    assert run_benchmark("dit_xl_macs")["macs_of_one_pass"] == pytest.approx(118.67e9, rel=1e-3)


def test_toy_landscapes(run_benchmark: RunBenchmark) -> None:
    record = run_benchmark("toy_landscapes", "--landscapes", 1, "--seeds", 1, "--generations", 1)
    assert all(len(hits) == 1 for hits in record["found"].values())


def test_replay_policy(run_benchmark: RunBenchmark) -> None:
    record = run_benchmark("replay_policy", "--generations", 2, "--seeds", 1, "--schedules", 4)
    assert [row["room_for_schedules"] for row in record["rows"]] == [4, None]
    assert 0 < record["rows"][0]["fittest_favoured"] <= record["rows"][1]["fittest_favoured"] < 1


def test_calibration_of_the_small_model(run_benchmark: RunBenchmark) -> None:
    sizes = ("--images", 2, "--batch-size", 2, "--steps", 2, "--stages", 1)
    record = run_benchmark("calibrate", "--only", "small", *sizes)
    assert {row["method"] for row in record["rows"]} == {"obs", "wanda", "layerdrop", "obs-diff", "diff-pruning"}
    assert all(row["stored_bytes"] > row["predicted"]["disk_bytes"] > 0 for row in record["rows"]), "and headers"


def test_the_page_of_results_is_the_one_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pages  # noqa: PLC0415
    import write_results  # noqa: PLC0415

    copied = Path(shutil.copytree(pages.FOLDER, tmp_path / "results"))
    for module in (pages, write_results):
        monkeypatch.setattr(module, "FOLDER", copied)
    kept = (copied / "README.md").read_text()
    write_results.main()
    assert (copied / "README.md").read_text() == kept
