"""What an artefact costs beside its dense model, on the tiny run."""

from __future__ import annotations

import pytest

from diff_es.errors import InputError
from diff_es.evaluation.memory import MemoryRecord, MemoryTask, measure_memory
from diff_es.run.benchmark import benchmark
from run.tiny_run import Finished


def test_dense_and_pruned_are_measured_together(finished: Finished) -> None:
    result = benchmark(finished.folder / "pruned", batch_sizes=(1, 2), repeats=2, device="cpu")
    evaluated = {row.name: row.cost for row in finished.result.evaluation.schedules}
    assert result.dense.macs == evaluated["dense"].macs and result.dense.macs_ratio == 1
    assert result.pruned.macs == evaluated["searched, sensitivity"].macs < result.dense.macs
    assert max(result.pruned.parameters_per_stage) < result.dense.parameters
    for cost in (result.dense, result.pruned):
        sizes = [(entry.batch_size, entry.scope) for entry in cost.latency]
        assert sizes == [(1, "denoiser"), (1, "pipeline"), (2, "denoiser"), (2, "pipeline")]
        assert cost.latency_of(2, "denoiser").median_ms < cost.latency_of(2).median_ms, "a call is a part of a run"
        assert cost.memory is None


def test_memory_is_measured_where_it_is_wanted(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def noted(task: MemoryTask) -> MemoryRecord:
        measured.append(task.setting)
        return measure_memory(task)

    monkeypatch.setattr("diff_es.evaluation.memory.measure_memory", noted)
    artefact = finished.folder / "pruned"
    result = benchmark(artefact, batch_sizes=(1,), scopes=("pipeline",), repeats=1, memory=True, device="cpu")
    assert measured == ["dense", "resident"], "another setting may not fit where these do"
    assert result.dense.memory is not None and result.pruned.memory is not None
    assert 0 < result.dense.memory.tensor_bytes < result.pruned.memory.tensor_bytes, "resident weights come on top"


@pytest.mark.slow
def test_both_are_compiled_where_it_is_wanted(finished: Finished) -> None:
    artefact = finished.folder / "pruned"
    result = benchmark(artefact, batch_sizes=(1,), repeats=1, device="cpu", compile_what="blocks")
    assert result.compiled == "blocks"
    assert result.pruned.macs < result.dense.macs


def test_what_cannot_be_compiled_is_refused(finished: Finished) -> None:
    with pytest.raises(InputError, match="without them nothing is left"):
        benchmark(finished.folder / "pruned", batch_sizes=(1,), repeats=1, device="cpu", compile_what="nothing")


def test_a_batch_size_below_one_is_refused(finished: Finished) -> None:
    with pytest.raises(InputError, match="batch_sizes"):
        benchmark(finished.folder / "pruned", batch_sizes=(0,), device="cpu")
