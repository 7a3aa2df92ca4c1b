"""Statistics that are collected while the pipeline samples, against those of recorded calls that are run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.calibration import CalibrationConfig, CalibrationStats, LiveSource, SamplingSource, calibrate
from diff_es.denoisers import Call
from diff_es.errors import InputError
from diff_es.sampling import Requests, SamplerConfig
from diff_es.stages import StagePlan
from support import PLAN, SAMPLER, tiny_pipe, tiny_source

#: Two batches, the second smaller.
REQUESTS = Requests.cycle(range(10), 3, 5)
BATCHES, STEPS = 2, 6
#: Second moments of one stage: each of the two blocks has an attention of 16 columns and an FFN of 64.
STAGE_BYTES = 2 * 8 * (16 * 17 + 64 * 65)


@dataclass
class RecordedSource:
    """A sampling source that cannot be watched while it samples."""

    source: SamplingSource = field(default_factory=lambda: SamplingSource(REQUESTS, SAMPLER, batch_size=2))

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        return self.source.calls(pipe, plan, stage)


@pytest.fixture
def pipe() -> DiTPipeline:
    return tiny_pipe()


def live(sampler: SamplerConfig = SAMPLER) -> SamplingSource:
    return SamplingSource(REQUESTS, sampler, batch_size=2)


def counted(pipe: DiTPipeline) -> list[int]:
    """A list that grows by one with every call of the denoiser."""
    calls: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def equal(first: CalibrationStats, second: CalibrationStats) -> bool:
    return all(
        set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)
        for ours, theirs in zip(first.sets, second.sets, strict=True)
    )


def test_which_sources_can_be_watched() -> None:
    assert isinstance(live(), LiveSource)
    assert not isinstance(RecordedSource(), LiveSource)
    assert not isinstance(tiny_source(), LiveSource)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("shared", [False, True])
def test_the_same_bits_in_half_of_the_calls(pipe: DiTPipeline, guidance: float, shared: bool) -> None:
    sampler = SamplerConfig(STEPS, guidance)
    config = CalibrationConfig(PLAN, shared=shared)
    calls = counted(pipe)
    found = calibrate(pipe, live(sampler), config)
    assert len(calls) == BATCHES * STEPS
    expected = calibrate(pipe, RecordedSource(live(sampler)), config)
    assert len(calls) == 3 * BATCHES * STEPS
    assert equal(found, expected)


@pytest.mark.parametrize(
    ("stages", "again"), [(3, 0), (2, 1), (1, 2), (0, 6)], ids=["all", "two", "one", "half of one's layers"]
)
def test_as_many_stages_as_the_limit_holds(pipe: DiTPipeline, stages: int, again: int) -> None:
    """Stages that do not fit are run again from what the one run kept: four calls each, once per pass."""
    config = CalibrationConfig(PLAN, ("second_moment",), memory_limit=stages * STAGE_BYTES or STAGE_BYTES // 2)
    calls = counted(pipe)
    found = calibrate(pipe, live(), config)
    assert len(calls) == BATCHES * STEPS + again * BATCHES * 2
    assert equal(found, calibrate(pipe, RecordedSource(), CalibrationConfig(PLAN, ("second_moment",))))


def test_a_folder_is_resumed_to_the_same_bytes(pipe: DiTPipeline, tmp_path: Path) -> None:
    config = CalibrationConfig(PLAN)
    calibrate(pipe, RecordedSource(), config, tmp_path / "recorded")
    calibrate(pipe, live(), config, tmp_path / "live")
    wholes = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("recorded", "live")]
    assert wholes[0] == wholes[1]
    (tmp_path / "live" / "stage-01.safetensors").unlink()
    calls = counted(pipe)
    calibrate(pipe, live(), config, tmp_path / "live")
    assert len(calls) == BATCHES * STEPS
    assert {path.name: path.read_bytes() for path in (tmp_path / "live").iterdir()} == wholes[0]
    calibrate(pipe, live(), config, tmp_path / "live")
    assert len(calls) == BATCHES * STEPS, "nothing was missing, and all was sampled again"


def test_a_stage_that_is_never_met_is_refused(pipe: DiTPipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no denoiser call in stage 2; .*\(6\)"):
        calibrate(pipe, live(SamplerConfig(num_inference_steps=2)), CalibrationConfig(PLAN), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize("before", ["nothing", "live", "recorded"])
def test_the_first_call_of_every_stage(pipe: DiTPipeline, before: str) -> None:
    """One batch is enough for them, and none where everything is kept."""
    source = live()
    if before == "live":
        calibrate(pipe, source, CalibrationConfig(PLAN))
    elif before == "recorded":
        next(source.calls(pipe, PLAN, 0))
    calls = counted(pipe)
    found = source.first_calls(pipe, PLAN)
    assert len(calls) == (0 if before == "recorded" else STEPS)
    expected = [next(RecordedSource().calls(pipe, PLAN, stage)) for stage in range(3)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_calls_that_were_not_kept_are_sampled_again(pipe: DiTPipeline) -> None:
    source = live()
    calibrate(pipe, source, CalibrationConfig(PLAN))
    for stage in (2, None):
        found, expected = (list(one.calls(pipe, PLAN, stage)) for one in (source, live()))
        assert len(found) == len(expected) == BATCHES * (2 if stage == 2 else STEPS)
        for ours, theirs in zip(found, expected, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
