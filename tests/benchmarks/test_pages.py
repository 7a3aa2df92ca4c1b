"""The page of performance: written from its files, with rows of a GPU only where these have been measured."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import BENCHMARKS

RESULTS = BENCHMARKS.parent / "docs" / "results"
START = {"evaluated": 20, "cost": 0.5, "calls_run": 0.9, "candidate_seconds": 1.5}
OFFSPRING = {"evaluated": 32, "cost": 0.25, "calls_run": 0.5, "candidate_seconds": 0.75}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import pages  # noqa: PLC0415 (conftest puts its folder on the path)
    import write_performance  # noqa: PLC0415

    copied = Path(shutil.copytree(RESULTS, tmp_path / "results"))
    for file in copied.glob("performance/*_gpu*.json"):
        file.unlink()
    for module in (pages, write_performance):
        monkeypatch.setattr(module, "FOLDER", copied)
    return copied


def page(folder: Path) -> str:
    import write_performance  # noqa: PLC0415

    write_performance.main()
    return (folder / "performance.md").read_text()


def on_gpu(folder: Path, name: str, gpu: str, **changes: Any) -> dict[str, Any]:
    """Write a result as it would be from a GPU."""
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    record |= {"device": "cuda", **changes}
    record["environment"]["device"] = "Some GPU"
    (folder / "performance" / f"{gpu}.json").write_text(json.dumps(record))
    return record


def test_the_kept_page_is_the_one_that_is_written(folder: Path) -> None:
    for file in RESULTS.glob("performance/*_gpu*.json"):
        shutil.copy(file, folder / "performance")
    assert page(folder) == (RESULTS / "performance.md").read_text()


def test_the_solver_on_a_gpu_has_a_row(folder: Path) -> None:
    before = page(folder)
    on_gpu(folder, "obs_solver_dit_xl", "obs_solver_dit-xl_gpu", seconds=0.125)
    assert [line for line in before.splitlines() if "1152 × 4608" in line and "GPU" in line] == []
    (row,) = [line for line in page(folder).splitlines() if "1152 × 4608, on a GPU" in line]
    assert "| 0.12 s |" in row
    assert page(folder).count("Some GPU") == 1


@pytest.mark.parametrize("through", [True, False])
def test_candidates_on_a_gpu_have_a_section(folder: Path, through: bool) -> None:
    assert "on a GPU" not in page(folder).partition("## Search")[2].partition("## Calibration")[0]
    rows = copy.deepcopy(json.loads((folder / "candidate_cost.json").read_text())["rows"][:1])
    rows[0] |= {"starts": START, "dense_rollout_seconds": 3.0} | ({"offspring": OFFSPRING} if through else {})
    ended = {} if through else {"unfinished": True}
    on_gpu(folder, "candidate_cost", "candidate_cost_dit-xl_gpu", model="dit-xl", rows=rows, **ended)
    section = page(folder).partition("### What a candidate costs: dit-xl on a GPU")[2].partition("###")[0]
    assert "| uniform | start schedules | 20 | 0.500 | 90.0% | 1.50 s |" in section
    assert ("ended before it was through" in section) is not through
    # (20 × 1.5 + 1,580 × 0.75) s
    assert ("Uniform: 0.34 hours, 0.253 dense rollouts a candidate." in section) is through
    assert ("| uniform | their offspring | 32 | 0.250 | 50.0% | 0.75 s |" in section) is through
