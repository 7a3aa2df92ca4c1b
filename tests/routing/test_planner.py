"""Memory modes: what each takes, counted on real routed models, and which one is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DiTPipeline
from torch import nn

from diff_es.bank import Bank
from diff_es.errors import InputError
from diff_es.routing import Mode, choose_mode, routed
from diff_es.routing.planner import BESIDE_A_RUN, ModePlan, Room
from diff_es.routing.sizes import weight_bytes
from diff_es.routing.stream import _ALIGNMENT
from diff_es.schedule import PruningSchedule
from support import METHODS, call_at, timestep_in

MIXED = (1, 2, 3)


def bytes_of(parameters: dict[int, nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())


def attached(pipe: DiTPipeline) -> dict[int, nn.Parameter]:
    return {id(parameter): parameter for parameter in pipe.transformer.parameters()}


@pytest.mark.parametrize("levels", [MIXED, (0, 0, 2), (4, 1, 1)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_what_each_mode_takes_is_what_the_routed_model_holds(
    pipe: DiTPipeline, bank: Bank, levels: tuple[int, ...]
) -> None:
    schedule = bank.uniform_allocation().resolve(levels)
    needed = weight_bytes(pipe.transformer, bank, schedule)
    dense = attached(pipe)
    held = dict(dense)
    most = 0
    with routed(pipe, bank, schedule):
        for stage in (2, 1, 0):
            pipe.transformer(**call_at(timestep_in(stage)))
            held |= attached(pipe)
            most = max(most, bytes_of(dense | attached(pipe)))
    # Without an intercept biases stay the dense ones; the plan counts them for every stage, to be on the safe side.
    biases = 0 if bank.info.settings["intercept"] or bank.depth else 2 * 2 * 16 * 4
    assert 0 <= needed["resident"] - bytes_of(held) <= biases * sum(level > 0 for level in levels)
    assert 0 <= needed["gather"] - most <= biases


@pytest.mark.parametrize("levels", [MIXED, (0, 1, 0), (1, 4, 1)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_stream_takes_the_rest_of_the_model_and_its_arena(
    pipe: DiTPipeline, bank: Bank, levels: tuple[int, ...]
) -> None:
    schedule = bank.uniform_allocation().resolve(levels)
    needed = weight_bytes(pipe.transformer, bank, schedule)["stream"]
    dense = bytes_of(attached(pipe))
    storages: dict[int, int] = {}
    with routed(pipe, bank, schedule, mode="stream"):
        for stage in (2, 1, 0):
            pipe.transformer(**call_at(timestep_in(stage)))
            storages |= {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in attached(pipe).values()}
    aligned = 2 * 4 * _ALIGNMENT * len(list(pipe.transformer.parameters()))
    assert abs(sum(storages.values()) - needed) <= aligned
    assert needed <= 1.1 * dense
    assert sum(storages.values()) <= 1.1 * dense + aligned


@pytest.fixture
def schedule(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(MIXED)


def test_the_fastest_mode_that_fits_is_chosen_with_a_reason(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    free = choose_mode(pipe, bank, schedule)
    assert (free.mode, free.limit) == ("resident", None)
    assert free.why.endswith("GiB, and nothing limits them.")
    exact = choose_mode(pipe, bank, schedule, free.weight_bytes["resident"])
    assert exact.mode == "resident" and "nothing is faster" in exact.why
    tight = choose_mode(pipe, bank, schedule, free.weight_bytes["resident"] - 1)
    assert tight.mode == "gather", "on a CPU there is nothing to stream from"
    assert "resident would take" in tight.why


def test_a_limit_that_nothing_fits_is_refused_with_what_is_needed(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    with pytest.raises(InputError, match=r"memory_limit=1000 bytes.*at least.*mode 'gather'.*offload"):
        choose_mode(pipe, bank, schedule, 1000)


@pytest.mark.parametrize(
    ("limit", "mode", "streams"),
    [
        (None, "resident", True),
        (134, "resident", True),
        (133, "gather", True),
        (80, "gather", True),
        (79, "stream", True),
        (40, "stream", True),
        (79, "gather", False),
    ],
)
def test_a_quarter_is_left_free_where_a_mode_can(limit: int | None, mode: Mode, streams: bool) -> None:
    needed: dict[Mode, int] = {"resident": 100, "gather": 60, "stream": 40}
    plan = Room(limit, BESIDE_A_RUN, "", streams).plan(needed, ("resident", "gather", "stream"))
    assert (plan.mode, plan.limit, plan.weight_bytes) == (mode, limit, needed)
    assert ("25% is for all else" in plan.why) == (mode != "resident")


class Gpu:
    """A device of so many bytes, as torch tells of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, reserved: int = 0, allocated: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)


def test_an_offloaded_model_is_planned_for_the_device_that_it_runs_on(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are in host memory when it is routed, where nothing would limit them."""
    needed = weight_bytes(pipe.transformer, bank, schedule)
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.transformer._hf_hook.execution_device = torch.device("cuda", 1)
    Gpu(monkeypatch, free=10 * needed["resident"])
    assert choose_mode(pipe, bank, schedule).mode == "resident"
    Gpu(monkeypatch, free=needed["resident"] - 1)
    plan = choose_mode(pipe, bank, schedule)
    assert plan.mode == "stream" and plan.limit == needed["resident"] - 1
    Gpu(monkeypatch, free=needed["resident"] - 1, reserved=2 * needed["resident"], allocated=needed["resident"])
    assert choose_mode(pipe, bank, schedule).mode == "resident", "what torch holds without using it is free too"


def test_on_a_device_that_is_nearly_full_the_smallest_mode_is_taken_and_on_a_full_one_none(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that runs there dense must not be refused for want of a reserve."""
    needed = weight_bytes(pipe.transformer, bank, schedule)
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.transformer._hf_hook.execution_device = torch.device("cuda", 0)
    Gpu(monkeypatch, free=needed["stream"])
    plan = choose_mode(pipe, bank, schedule)
    assert plan.mode == "stream" and plan.limit == needed["stream"]
    Gpu(monkeypatch, free=needed["stream"] - 1)
    with pytest.raises(InputError, match=r"cuda:0 has free .* the weights take at least .*'stream'"):
        choose_mode(pipe, bank, schedule)


def test_a_plan_is_a_record(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    plan = choose_mode(pipe, bank, schedule)
    assert replace(plan) == plan
    assert isinstance(plan, ModePlan)


def test_a_block_chooses_its_mode_as_a_call_does(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    tight = weight_bytes(pipe.transformer, bank, schedule)["resident"] - 1
    with routed(pipe, bank, schedule, mode="auto", memory_limit=tight) as router:
        assert router.mode == "gather"


def test_an_unknown_mode_is_refused(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    with pytest.raises(InputError, match="did you mean 'stream'"), routed(pipe, bank, schedule, mode="streams"):
        pass


def test_stream_refuses_weights_of_several_dtypes(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    pipe.transformer.transformer_blocks[0].ff.net[2].to(torch.float64)
    with pytest.raises(InputError, match=r'several dtypes \(torch.float32, torch.float64\).*mode="resident"'):
        pipe_routed(pipe, bank, schedule)


def pipe_routed(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    from diff_es.routing import Router  # noqa: PLC0415 (the fingerprint check comes before in apply_)

    Router(pipe.transformer, bank, "stream").set_schedule(schedule)
