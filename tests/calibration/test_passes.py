"""What calibration says it will take, against what it takes."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.calibration import CalibrationConfig, DatasetSource, LiveSource, SamplingSource, calibrate, passes
from diff_es.calibration.passes import Forecast, announced, forecast
from diff_es.calibration.statistics import SecondMoment, Statistic
from diff_es.denoisers import Call
from diff_es.stages import StagePlan
from support import PLAN, REQUESTS, SAMPLER, tiny_pipe, tiny_source

#: Second moments of the largest layer, and of all four.
LARGEST, ALL = 8 * 64 * 65, 2 * 8 * (16 * 17 + 64 * 65)


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@dataclass
class Watching:
    """A source that notes how often it is asked, and how many bytes of sums are alive while its calls run."""

    source: DatasetSource | SamplingSource
    asked: int = 0
    held: int = 0

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        self.asked += 1
        for call in self.source.calls(pipe, plan, stage):
            yield call
            self.look()

    def look(self) -> None:
        alive = [found for found in gc.get_objects() if isinstance(found, SecondMoment)]
        self.held = max(self.held, sum(own.products.nbytes + own.sums.nbytes for own in alive))


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("limit", [ALL, ALL - 1, LARGEST])
@pytest.mark.parametrize("shared", [False, True])
def test_passes_memory_and_disk(pipe: DiTPipeline, limit: int, shared: bool, tmp_path: Path) -> None:
    config = CalibrationConfig(PLAN, ("second_moment", "input_norms"), shared=shared, memory_limit=limit)
    sets = 1 if shared else 3
    expected = forecast(pipe, config, sets=sets, live=False)
    source = Watching(tiny_source())
    calibrate(pipe, source, config, tmp_path)
    assert (expected.sets, expected.live) == (sets, 0)
    assert source.asked == sets * expected.passes
    assert source.held == expected.bytes_at_once <= limit
    stored = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert expected.disk_bytes < stored < expected.disk_bytes + sets * 16_000, "the headers are all that comes on top"


@pytest.mark.parametrize(("limit", "live", "at_once"), [(3, 3, 3), (2, 2, 2), (1, 1, 1), (0.9, 0, 0.9)])
def test_stages_at_once(pipe: DiTPipeline, limit: float, live: int, at_once: float) -> None:
    config = CalibrationConfig(PLAN, ("second_moment",), memory_limit=int(limit * ALL))
    expected = forecast(pipe, config, sets=3, live=True)
    assert expected.live == live
    assert expected.passes == (1 if limit >= 1 else 2)
    assert 0 < expected.bytes_at_once <= at_once * ALL


@pytest.mark.parametrize("collect", [("input_norms",), ("similarity",)])
def test_what_is_small_is_no_matter(pipe: DiTPipeline, collect: tuple[Statistic, ...]) -> None:
    expected = forecast(pipe, CalibrationConfig(PLAN, collect, memory_limit=1), sets=3, live=True)
    assert (expected.live, expected.passes, expected.bytes_at_once) == (3, 1, 0)


def test_it_is_said_before_anything_runs(pipe: DiTPipeline, caplog: pytest.LogCaptureFixture) -> None:
    lines_at_first_call: list[int] = []

    @dataclass
    class Listening(SamplingSource):
        def run(self, pipe: Any, enter: Any) -> None:
            lines_at_first_call.append(len(caplog.records))
            super().run(pipe, enter)

    config = CalibrationConfig(PLAN, memory_limit=2 * ALL)
    source = Listening(REQUESTS, SAMPLER)
    assert isinstance(source, LiveSource)
    with caplog.at_level(logging.INFO, "diff_es"):
        calibrate(pipe, source, config)
    assert lines_at_first_call == [1]
    assert caplog.messages == [str(forecast(pipe, config, sets=3, live=True))]
    assert "3 sets: 2 while sampling once, 1 in 1 pass over its inputs each; 0.1 MiB" in caplog.messages[0]


def test_nothing_is_said_where_nothing_is_missing(
    pipe: DiTPipeline, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    calibrate(pipe, tiny_source(), CalibrationConfig(PLAN), tmp_path)
    with caplog.at_level(logging.INFO, "diff_es"):
        calibrate(pipe, tiny_source(), CalibrationConfig(PLAN), tmp_path)
    assert caplog.messages == []


@dataclass
class Slow:
    """Waits at every call."""

    seconds: float
    done: list[int] = field(default_factory=list)

    def run(self, count: int, what: str) -> None:
        for index in announced(range(3), count, what, torch.device("cpu")):
            time.sleep(self.seconds)
            self.done.append(index)


def test_the_first_call_tells_how_long_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow(0.05)
    with caplog.at_level(logging.INFO, "diff_es"):
        slow.run(1_000_000, "Calibrating stage 3")
        slow.run(3, "Calibrating stage 4")
    assert slow.done == [0, 1, 2] * 2
    (line,) = caplog.messages
    found = re.fullmatch(r"Calibrating stage 3: 1000000 calls of the denoiser, about (.*) h by the first one\.", line)
    assert found is not None, line
    assert 1e6 * 0.05 / 3600 <= float(found[1]) + 0.05 < 10 * 1e6 * 0.05 / 3600


def test_a_gpu_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append((device, list(done))))
    done: list[int] = []
    for index in announced(range(3), 3, "Calibrating stage 3", torch.device("cuda:1")):
        done.append(index)
    assert waits == [(torch.device("cuda:1"), [0])]


def test_the_calls_of_all_passes_are_told_once(
    pipe: DiTPipeline, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_WORTH_SAYING", 0.0)
    config = CalibrationConfig(PLAN, ("second_moment",), memory_limit=LARGEST)
    with caplog.at_level(logging.INFO, "diff_es"):
        calibrate(pipe, tiny_source(), config)
    told = [line.partition(",")[0] for line in caplog.messages if line.startswith("Calibrating")]
    source = tiny_source()
    calls = len(list(source.calls(pipe, PLAN, 0))) * forecast(pipe, config, sets=3, live=False).passes
    assert told == [f"Calibrating stage {stage}: {calls} calls of the denoiser" for stage in range(3)]


@pytest.mark.parametrize("source", [tiny_source(), SamplingSource(REQUESTS, SAMPLER)], ids=["dataset", "sampling"])
@pytest.mark.parametrize("stage", [1, None])
def test_sources_know_how_many_calls_they_give(
    pipe: DiTPipeline, source: DatasetSource | SamplingSource, stage: int | None
) -> None:
    assert len(list(source.calls(pipe, PLAN, stage))) == source.num_calls(PLAN, stage) > 0


def test_in_words() -> None:
    assert str(Forecast(1, 0, 3, 2_400_000_000, 2_527_468_160)) == (
        "Calibration of 1 set: 1 in 3 passes over its inputs each; 2.2 GiB of memory for sums at once, 2.4 GiB stored."
    )
