"""Calibration statistics against a recomputation from captured activations, in float64."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTPipeline
from torch import Tensor

from diff_es.calibration import (
    CalibrationConfig,
    CalibrationStats,
    LayerStatistics,
    SamplingSource,
    calibrate,
    statistics,
)
from diff_es.calibration.collect import calibrate_stage
from diff_es.calibration.statistics import Moments, SecondMoment
from diff_es.calibration.store import tensor_names
from diff_es.denoisers import Layer, spec_of
from diff_es.errors import ArtifactError, InputError
from diff_es.sampling import Requests, SamplerConfig
from diff_es.stages import StagePlan
from support import LAYERS, PLAN, REQUESTS, SAMPLER, output_of, snapshot, tiny_pipe, tiny_source, tiny_stats


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def stats(pipe: DiTPipeline) -> CalibrationStats:
    return tiny_stats(pipe)


def layers_of(pipe: DiTPipeline, *, blocks: bool = False) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).layers(pipe.transformer, blocks=blocks)


def captured(pipe: DiTPipeline, path: str, stage: int | None) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of one module over all calls of a stage, (samples, tokens, columns), float64."""
    inputs, outputs = [], []

    def keep(_: object, args: tuple[Any, ...], output: Tensor) -> None:
        inputs.append(args[0].double())
        outputs.append(output.double())

    calls = list(tiny_source().calls(pipe, PLAN, stage))  # the source runs the model too: not to be watched
    handle = pipe.transformer.get_submodule(path).register_forward_hook(keep)
    with torch.no_grad():
        for call in calls:
            pipe.transformer(**call)
    handle.remove()
    return torch.cat(inputs), torch.cat(outputs)


def moments_of(stats: CalibrationStats, stage: int, layer: Layer) -> Moments:
    moments = stats.of(stage, layer).moments
    assert moments is not None
    return moments[output_of(layer)]


@pytest.mark.parametrize("stage", range(PLAN.num_stages))
def test_second_moment_and_mean(pipe: DiTPipeline, stats: CalibrationStats, stage: int) -> None:
    for layer in layers_of(pipe):
        x = captured(pipe, output_of(layer), stage)[0].flatten(0, 1)
        moments = moments_of(stats, stage, layer)
        torch.testing.assert_close(moments.second.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments.mean.double(), x.mean(dim=0), rtol=1e-5, atol=1e-6)
        assert moments.rows == len(x)


@pytest.mark.parametrize("stage", range(PLAN.num_stages))
def test_input_norms(pipe: DiTPipeline, stats: CalibrationStats, stage: int) -> None:
    for layer in layers_of(pipe):
        norms = stats.of(stage, layer).input_norms
        assert norms is not None
        assert tuple(norms) == layer.inputs
        for path in layer.inputs:
            x = captured(pipe, path, stage)[0].flatten(0, 1)
            torch.testing.assert_close(norms[path].double(), x.norm(dim=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("stage", range(PLAN.num_stages))
def test_block_similarity(pipe: DiTPipeline, stats: CalibrationStats, stage: int) -> None:
    for layer in layers_of(pipe, blocks=True):
        x, y = (tensor.flatten(1) for tensor in captured(pipe, layer.name, stage))
        expected = F.cosine_similarity(x, y, dim=1).mean()
        assert stats.of(stage, layer).similarity == pytest.approx(float(expected), rel=1e-6)


def test_sums_taken_part_by_part_have_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_PART", 30)  # four rows of seven values, and the other three
    batches = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    moment = SecondMoment("a", 7, torch.device("cpu"))
    products = torch.zeros(7, 7, dtype=torch.float64)
    for batch in batches:
        moment.update(batch)
        products += batch.T @ batch
    assert torch.equal(moment.products, products)
    assert torch.equal(moment.tensors()["a/second_moment"], (products / 15).float())


#: Prints how many bytes come on top of the sum while a batch is added, and while the result is made.
_EXTRA = """
import torch
from diff_es.calibration.statistics import SecondMoment
from diff_es.evaluation.memory import ResidentGauge
moment, batch = SecondMoment("a", 4096, torch.device("cpu")), torch.ones(8, 4096)
moment.products.fill_(0.0)
moment.update(batch[:, :1].expand(8, 4096))
gauge = ResidentGauge()
for work in (lambda: moment.update(batch), moment.tensors):
    gauge.reset_peak()
    before = gauge.now()
    kept = work()
    print(gauge.peak() - before)
    del kept
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the resident set is read from Linux's /proc")
def test_little_memory_comes_on_top_of_the_sums() -> None:
    """One float32 matrix each, half as large as the sum: the batch's products, and the result."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", _EXTRA]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    matrix = 4 * 4096**2
    assert all(int(extra) < 1.5 * matrix for extra in printed.split()), printed


def test_stages_differ(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    moments = [moments_of(stats, stage, layers_of(pipe)[0]).second for stage in range(3)]
    assert not torch.equal(moments[0], moments[1])
    assert not torch.equal(moments[1], moments[2])


def test_several_passes_give_the_same_bits(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    """The limit holds one layer at a time: as many passes as layers."""
    largest = 8 * 64 * 65
    config = CalibrationConfig(PLAN, memory_limit=largest)
    again = calibrate(pipe, tiny_source(), config)
    for first, second in zip(stats.sets, again.sets, strict=True):
        assert set(first) == set(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(
        InputError, match=rf"memory_limit={largest - 1} bytes is too small: .*\.ff alone needs {largest}"
    ):
        calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, memory_limit=largest - 1))


@pytest.mark.usefixtures("only_new_objects")
def test_what_is_written_is_not_kept(pipe: DiTPipeline, tmp_path: Path) -> None:
    """With one layer per pass, no sum of an earlier pass or stage is left when the next one begins."""
    alive: list[int] = []

    class Counting:
        def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[dict[str, Any]]:
            gc.collect()
            alive.append(sum(isinstance(found, SecondMoment) for found in gc.get_objects()))
            for call in tiny_source().calls(pipe, plan, stage):
                alive.append(sum(isinstance(found, SecondMoment) for found in gc.get_objects()))
                yield call

    config = CalibrationConfig(PLAN, ("second_moment",), memory_limit=8 * 64 * 65)
    calibrate(pipe, Counting(), config, tmp_path)
    # The first call is asked for before the layers are watched, the second while one of them is.
    assert alive == [0, 0, 1] * len(layers_of(pipe)) * PLAN.num_stages


def test_one_stage_alone_is_the_same(pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path) -> None:
    config = CalibrationConfig(PLAN)
    alone = calibrate_stage(pipe, tiny_source(), config, 1, None)
    written = calibrate_stage(pipe, tiny_source(), config, 1, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stage-01.safetensors"]
    for found in (alone, written):
        assert set(found) == set(stats.sets[1])
        assert all(torch.equal(found[name], stats.sets[1][name]) for name in found)


def test_the_model_is_left_as_it_was(pipe: DiTPipeline) -> None:
    before = snapshot(pipe.transformer)
    tiny_stats(pipe)
    assert snapshot(pipe.transformer) == before


def test_autocast_does_not_spoil_the_second_moment(pipe: DiTPipeline) -> None:
    """Inside bfloat16 autocast the activations are rounded, but their products are not rounded again."""
    layer = layers_of(pipe)[1]
    with torch.autocast("cpu", torch.bfloat16):
        stats = calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ("second_moment",)))
        x = captured(pipe, output_of(layer), 1)[0].flatten(0, 1)
    found = moments_of(stats, 1, layer).second
    assert found.dtype == torch.float32
    exact = x.T @ x / len(x)
    assert (found - exact).norm() <= 1e-6 * exact.norm()
    rounded = (x.bfloat16().T @ x.bfloat16()).double() / len(x)
    assert (rounded - exact).norm() > 1e-4 * exact.norm(), "the test could not tell the two apart"


def test_only_what_is_wanted_is_collected(pipe: DiTPipeline) -> None:
    moments = {"second_moment", "mean", "rows"}
    kinds = {"second_moment": moments, "input_norms": {"input_norms"}, "similarity": {"similarity"}}
    for wanted, expected in kinds.items():
        found = calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, (wanted,)))  # type: ignore[arg-type]
        assert {name.rpartition("/")[2] for name in found.sets[0]} == expected
        announced = tensor_names(layers_of(pipe, blocks=wanted == "similarity"), (wanted,))  # type: ignore[arg-type]
        assert sorted(announced) == sorted(found.sets[0])


@pytest.mark.parametrize(
    ("collect", "message"),
    [
        (("similarity", "second_moments"), "names 'second_moments': did you mean 'second_moment'"),
        ("similarity", r"must be a tuple of names, such as \('similarity',\)"),
    ],
)
def test_what_is_no_statistic_is_refused(collect: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CalibrationConfig(PLAN, collect)


def test_nothing_is_run_where_nothing_is_wanted(pipe: DiTPipeline) -> None:
    source = RecordingSource()
    stats = calibrate(pipe, source, CalibrationConfig(PLAN, ()))
    assert source.asked == []
    assert stats.of(2, layers_of(pipe)[0]) == LayerStatistics()


def test_shared_calibration_serves_every_stage(pipe: DiTPipeline) -> None:
    stats = tiny_stats(pipe, shared=True)
    assert stats.shared
    assert len(stats.sets) == 1
    for layer in layers_of(pipe):
        x = captured(pipe, output_of(layer), None)[0].flatten(0, 1)
        for stage in range(3):
            moment = moments_of(stats, stage, layer).second
            assert moment is not None
            torch.testing.assert_close(moment.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_is_resumed_to_the_same_bytes(
    pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CalibrationConfig(PLAN)
    calibrate(pipe, tiny_source(), config, tmp_path)
    whole = files(tmp_path)
    assert sorted(whole) == ["settings.json", *(f"stage-0{stage}.safetensors" for stage in range(3))]
    (tmp_path / "stage-01.safetensors").unlink()
    source = RecordingSource()
    resumed = calibrate(pipe, source, config, tmp_path)
    assert source.asked == [1], "finished stages were run again"
    assert files(tmp_path) == whole
    opened = CalibrationStats.open(tmp_path, 3, shared=False)
    for stage in range(3):
        for name, tensor in stats.sets[stage].items():
            assert torch.equal(resumed.sets[stage][name], tensor)
            assert torch.equal(opened.sets[stage][name], tensor)


class RecordingSource:
    """The usual source, noting which stages are asked for."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[dict[str, Any]]:
        self.asked.append(stage)
        return tiny_source().calls(pipe, plan, stage)


def test_a_truncated_shard_is_an_artifact_error(pipe: DiTPipeline, tmp_path: Path) -> None:
    calibrate(pipe, tiny_source(), CalibrationConfig(PLAN), tmp_path)
    shard = tmp_path / "stage-02.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"stage-02\.safetensors cannot be read"):
        CalibrationStats.open(tmp_path, 3, shared=False)
    shard.unlink()
    with pytest.raises(ArtifactError, match=r"stage-02\.safetensors"):
        CalibrationStats.open(tmp_path, 3, shared=False)


def test_a_stage_without_calls_is_refused(pipe: DiTPipeline) -> None:
    """Two steps cannot feed three stages; empty statistics would rank groups by index, silently."""
    source = SamplingSource(REQUESTS, SamplerConfig(num_inference_steps=2))
    with pytest.raises(InputError, match=r"no denoiser call in stage 2.*\(6\)"):
        calibrate(pipe, source, CalibrationConfig(PLAN, ("input_norms",)))


def test_wrong_numbers_of_sets_are_refused(stats: CalibrationStats) -> None:
    with pytest.raises(InputError, match="2 sets of statistics for 3 stages"):
        CalibrationStats(stats.sets[:2], 3)


def test_the_sampling_source_feeds_every_layer(pipe: DiTPipeline) -> None:
    stats = calibrate(pipe, SamplingSource(Requests.cycle(range(10), 3, 0), SAMPLER), CalibrationConfig(PLAN))
    for layer in layers_of(pipe):
        moment = moments_of(stats, 2, layer).second
        assert moment is not None
        assert float(torch.linalg.eigvalsh(moment.double()).min()) > -1e-6
    assert len(layers_of(pipe)) == 2 * LAYERS
