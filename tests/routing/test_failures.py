"""What went wrong leaves a dense model or the right weights behind, and nothing stale is taken for new."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.bank import Bank, ThinLayer
from diff_es.denoisers import Layer
from diff_es.errors import UnsupportedModelError
from diff_es.routing import Mode, Router, apply_, install_, is_routed, remove_, routed, stream
from diff_es.routing.arena import Arena
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from support import REQUESTS, SAMPLER, call_at, mixed_levels, same_state, snapshot, timestep_in

MODES: tuple[Mode, ...] = ("resident", "stream", "gather")
every_mode = pytest.mark.parametrize("mode", MODES)


class BreakingSource:
    """A bank that fails once, in the middle of a stage."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.fails_at: tuple[int, str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bank, name)

    def thin(self, stage: int, layer: Layer, level: int) -> ThinLayer:
        if self.fails_at == (stage, layer.name):
            self.fails_at = None
            raise torch.OutOfMemoryError("no memory for this one")
        return self._bank.thin(stage, layer, level)


@pytest.fixture
def schedule(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


def test_after_a_switch_that_failed_the_next_run_is_right(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    source = BreakingSource(bank)
    with routed(pipe, source, schedule, mode="gather"):
        expected = sample(pipe, REQUESTS, SAMPLER)
        source.fails_at = (1, bank.layers[2])
        with pytest.raises(torch.OutOfMemoryError):
            sample(pipe, REQUESTS, SAMPLER)
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_a_schedule_that_could_not_be_set_is_said_so(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode
) -> None:
    before, source = snapshot(pipe.transformer), BreakingSource(bank)
    router = apply_(pipe, source, schedule, mode=mode)
    expected = sample(pipe, REQUESTS, SAMPLER)
    source.fails_at = (0, bank.layers[2])
    other = bank.uniform_allocation().resolve((3, 2, 1))
    with pytest.raises(torch.OutOfMemoryError):
        router.set_schedule(other)
    with pytest.raises(UnsupportedModelError, match=r"no schedule.*remove_\(pipe\)"):
        sample(pipe, REQUESTS, SAMPLER)
    router.set_schedule(schedule)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
    remove_(pipe)
    assert same_state(pipe.transformer, before)


def test_a_stream_without_memory_leaves_the_model_dense(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, dense = snapshot(pipe.transformer), sample(pipe, REQUESTS, SAMPLER)

    class NoRoom(Arena):
        def __init__(self, *_: Any) -> None:
            raise torch.OutOfMemoryError("no room for the arena")

    monkeypatch.setattr(stream, "Arena", NoRoom)
    with pytest.raises(torch.OutOfMemoryError), routed(pipe, bank, schedule, mode="stream"):
        pass
    assert not is_routed(pipe)
    assert same_state(pipe.transformer, before)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)


@every_mode
def test_the_first_stage_is_checked_as_the_others_are(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode
) -> None:
    apply_(pipe, bank, schedule, mode=mode)
    pipe.transformer._hf_peft_config_loaded = True  # what diffusers sets when LoRA weights are loaded
    with pytest.raises(UnsupportedModelError, match="LoRA weights were loaded into a routed denoiser"):
        pipe.transformer(**call_at(timestep_in(2)))


@every_mode
@pytest.mark.parametrize("routed_in_it", [True, False])
def test_inference_mode_may_end_and_begin_at_any_time(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode, routed_in_it: bool
) -> None:
    with routed(pipe, bank, schedule, mode=mode):
        expected = sample(pipe, REQUESTS, SAMPLER)
    with torch.inference_mode(mode=routed_in_it):
        router = apply_(pipe, bank, schedule, mode=mode)
    with torch.inference_mode(mode=not routed_in_it):
        router.set_schedule(schedule)
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
    pipe.to(torch.float64)
    pipe.transformer(**call_at(timestep_in(1), dtype=torch.float64))


def test_a_streams_room_is_a_tenth_of_the_model_as_it_is_now(pipe: DiTPipeline, bank: Bank) -> None:
    schedule = bank.uniform_allocation().resolve((0, 1, 0))
    router = apply_(pipe, bank, schedule, mode="stream")
    before = len(router._residence._arena._memory)
    pipe.to(torch.float16)
    router.set_schedule(schedule)
    router.point_at(2)
    assert len(router._residence._arena._memory) == before


@pytest.mark.parametrize("fails_at", [0, 5])
def test_a_stream_that_cannot_move_all_dense_weights_brings_back_what_it_has_moved(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """The CPU stands for both sides, so that what has moved is told by who is asked to come back."""
    moved: list[int] = []
    brought_back: list[int] = []
    to = torch.Tensor.to

    def counting(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args == ("cpu",) and kwargs == {"copy": True}:
            if len(moved) == fails_at:
                raise torch.OutOfMemoryError("no host memory left")
            moved.append(self.numel())
        elif args == (torch.device("cpu"),) and not kwargs and moved:
            brought_back.append(self.numel())
        return to(self, *args, **kwargs)

    before = snapshot(pipe.transformer)
    router = Router(pipe.transformer, bank, "stream")
    router.set_schedule(schedule)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", counting)
        with pytest.raises(torch.OutOfMemoryError):
            install_(pipe.transformer, router)
    assert not is_routed(pipe)
    assert len(moved) == fails_at and brought_back[: len(moved)] == moved
    assert same_state(pipe.transformer, before)


@every_mode
def test_a_move_that_fails_leaves_no_holes(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode
) -> None:
    names = [name for name, _ in pipe.transformer.named_parameters()]
    apply_(pipe, bank, schedule, mode=mode)
    expected = sample(pipe, REQUESTS, SAMPLER)

    def fails(tensor: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room over there")

    with pytest.raises(torch.OutOfMemoryError):
        pipe.transformer._apply(fails)
    assert [name for name, _ in pipe.transformer.named_parameters()] == names
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)


def test_dense_weights_that_come_back_in_inference_mode_are_plain(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another device they are copied, as they are here; a tensor made in inference mode could not be written."""
    apply_(pipe, bank, schedule, mode="stream")
    to = torch.Tensor.to
    with torch.inference_mode(), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: to(self, *args, **{"copy": True, **kwargs}))
        remove_(pipe)
    assert not any(parameter.is_inference() for parameter in pipe.transformer.parameters())
