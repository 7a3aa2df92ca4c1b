"""The solver's benchmark: the plain loop in full, and extrapolated from some removals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from .conftest import RunBenchmark


def test_a_comparison_in_full(run_benchmark: RunBenchmark) -> None:
    record = run_benchmark("obs_solver", "--rows", 8, "--columns", 32, "--repeats", 1, "--plain-repeats", 1)
    assert record["kept_sets_equal"]
    assert record["levels_compared"] == 16
    assert record["command"] == "python benchmarks/obs_solver.py --rows 8 --columns 32 --repeats 1 --plain-repeats 1"


def test_only_removals_are_extrapolated(run_benchmark: RunBenchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first use of a library takes long, whichever loop it is for; the start is no removal."""
    import obs_solver  # noqa: PLC0415 (conftest puts its folder on the path)

    def seconds(device: torch.device, function: Any, *args: Any, **kwargs: Any) -> tuple[float, Any]:
        result = function(*args, **kwargs)
        if function is obs_solver.PlainObs:
            return 100.0, result
        if function is obs_solver.solve:
            return 2.0, result
        return (50.0 if next(removals) % 21 < 2 else 0.25), result

    removals = itertools.count()
    monkeypatch.setattr(obs_solver, "timed", seconds)
    size = ("--rows", 8, "--columns", 32, "--plain-removals", 19, "--repeats", 1)
    record = run_benchmark("obs_solver", *size)
    assert record["seconds_of_a_plain_removal"] == record["seconds_of_a_plain_removal_in_place"] == 0.25
    assert record["seconds_plain"] == record["seconds_plain_in_place"] == 100 + 30 * 0.25
    assert record["plain"] == "extrapolated from 19 removals"
    assert record["kept_sets_equal"]


def test_more_removals_than_there_are_columns(run_benchmark: RunBenchmark, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_benchmark("obs_solver", "--columns", 32, "--plain-removals", 31)
    assert "--plain-removals 31: only 30 can be timed." in capsys.readouterr().err
