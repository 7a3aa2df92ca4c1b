"""What an artefact costs beside its dense model, on the tiny run."""

from __future__ import annotations

import logging
import weakref

import pytest

from diff_es.bank import Pruned
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation.memory import MemoryRecord, MemoryTask, measure_memory
from diff_es.pipelines import load_pipeline
from diff_es.routing.sizes import weight_bytes
from diff_es.run.base import load_base
from diff_es.run.benchmark import benchmark
from run.tiny_run import Finished


def test_dense_and_pruned_are_measured_together(finished: Finished) -> None:
    result = benchmark(finished.folder / "pruned", batch_sizes=(1, 2), repeats=2, device="cpu")
    evaluated = {row.name: row.cost for row in finished.result.evaluation.schedules}
    assert result.dense.macs == evaluated["dense"].macs and result.dense.macs_ratio == 1
    assert result.pruned.macs == evaluated["searched, sensitivity"].macs < result.dense.macs
    assert (result.dense.latency_mode, result.pruned.latency_mode) == (None, "resident")
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


def test_the_pruned_model_is_timed_in_a_mode_that_fits(finished: Finished) -> None:
    artefact = finished.folder / "pruned"
    source = Pruned.open(artefact)
    denoiser = load_pipeline(str(finished.model), device="cpu").transformer
    needed = weight_bytes(denoiser, source, source.info.schedule)
    assert needed["gather"] < needed["resident"]
    modes = {}
    for mode in ("resident", "gather"):
        limit = -(-4 * needed[mode] // 3)  # a quarter stays free
        cost = benchmark(artefact, batch_sizes=(1,), scopes=("pipeline",), repeats=1, device="cpu", memory_limit=limit)
        modes[mode] = (cost.dense.latency_mode, cost.pruned.latency_mode)
    assert modes == {"resident": (None, "resident"), "gather": (None, "gather")}


def test_memory_that_cannot_be_measured_costs_no_latencies(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the model that was timed is gone by then: on a GPU it may fill the memory."""
    loaded: list[weakref.ref[object]] = []

    def noted(*arguments: object) -> object:
        pipe = load_base(*arguments)
        loaded.append(weakref.ref(pipe.transformer))
        return pipe

    def failing(task: MemoryTask) -> MemoryRecord:
        assert [reference() for reference in loaded] == [None]
        raise ArtifactError("out of memory")

    monkeypatch.setattr("diff_es.run.benchmark.load_base", noted)
    monkeypatch.setattr("diff_es.evaluation.memory.measure_memory", failing)
    artefact = finished.folder / "pruned"
    with caplog.at_level(logging.WARNING):
        result = benchmark(artefact, batch_sizes=(1,), scopes=("pipeline",), repeats=1, memory=True, device="cpu")
    assert result.pruned.latency and result.dense.memory is None
    assert "The memory was not measured: out of memory" in caplog.text


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
