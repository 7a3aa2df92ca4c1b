"""Parameters against physically smaller models, MACs against the sum over all calls. Weights are random."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from torch import nn

from diff_es.artifacts import read_record, write_record
from diff_es.bank import Bank
from diff_es.calibration import record_calls
from diff_es.denoisers import count_macs, macs_by_module
from diff_es.errors import InputError
from diff_es.evaluation.cost import Cost, count_run, measure_costs
from diff_es.evaluation.latency import LatencyEntry, LatencyRecord, routing_contender
from diff_es.evaluation.memory import MemoryRecord
from diff_es.routing import Mode, routed
from diff_es.sampling import Requests, sample
from diff_es.schedule import PruningSchedule
from routing_oracles import pruned_model
from support import PLAN, SAMPLER, mixed_levels, tiny_bank, tiny_pipe, tiny_stats

LATENCY = LatencyRecord(10.0, 9.0, 12.0, 20, 3, "CPU", 2)


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def banks(pipe: DiTPipeline) -> dict[str, Bank]:
    stats = tiny_stats(pipe)
    return {method: tiny_bank(pipe, method, stats=stats) for method in ("obs", "wanda", "layerdrop")}


def mixed(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def used(pipe: DiTPipeline) -> tuple[int, ...]:
    return count_run(pipe, PLAN, SAMPLER).parameters_per_stage


@pytest.mark.parametrize("method", ["obs", "wanda"])
def test_a_stage_uses_the_parameters_of_a_physically_smaller_model(
    pipe: DiTPipeline, banks: dict[str, Bank], method: str
) -> None:
    bank = banks[method]
    schedule = mixed(bank)
    wanted = tuple(parameters(pruned_model(pipe.transformer, bank, stage, schedule)) for stage in range(3))
    assert used(pipe) == (parameters(pipe.transformer),) * 3
    with routed(pipe, bank, schedule):
        assert used(pipe) == wanted


@pytest.mark.parametrize("mode", ["stream", "gather"])
def test_the_memory_mode_changes_no_count(pipe: DiTPipeline, banks: dict[str, Bank], mode: Mode) -> None:
    """Gathering reads the dense weights at each stage border; no layer uses those."""
    bank = banks["obs"]
    counts = []
    for own in ("resident", mode):
        with routed(pipe, bank, mixed(bank), mode=own):
            counts.append(count_run(pipe, PLAN, SAMPLER))
    assert counts[0] == counts[1]


def test_a_dropped_block_is_not_used_but_for_what_the_last_layer_borrows(
    pipe: DiTPipeline, banks: dict[str, Bank]
) -> None:
    bank = banks["layerdrop"]
    blocks = pipe.transformer.transformer_blocks
    dense, embedder = parameters(pipe.transformer), parameters(blocks[0].norm1.emb)
    levels = bank.uniform_allocation().resolve((bank.num_levels, 0, 0))
    with routed(pipe, bank, levels):
        assert used(pipe) == (dense - sum(map(parameters, blocks)) + embedder, dense, dense)


def test_what_runs_beside_the_denoiser_is_not_counted(pipe: DiTPipeline) -> None:
    calls = [call for _, call in record_calls(pipe, Requests((0,), (0,)), SAMPLER)]
    found = count_run(pipe, PLAN, SAMPLER)
    assert found.macs == sum(count_macs(pipe.transformer, call) for call in calls), "the VAE decodes too"


def test_a_call_that_is_left_out_costs_nothing(pipe: DiTPipeline) -> None:
    """As under a cache: the second block answers from memory at every second call."""
    block, remembered = pipe.transformer.transformer_blocks[1], []
    original, whole = block.forward, count_run(pipe, PLAN, SAMPLER).macs

    def forward(*args: Any, **kwargs: Any) -> Any:
        if len(remembered) % 2 == 0:
            remembered.append(original(*args, **kwargs))
        else:
            remembered.append(remembered[-1])
        return remembered[-1]

    block.forward = forward
    try:
        left = count_run(pipe, PLAN, SAMPLER).macs
    finally:
        del block.forward
    (_, call), *_ = record_calls(pipe, Requests((0,), (0,)), SAMPLER)
    one = macs_by_module(pipe.transformer, call)["transformer_blocks.1"]
    assert whole - left == one * SAMPLER.num_inference_steps // 2


def test_a_stage_without_a_call_is_refused(pipe: DiTPipeline) -> None:
    with pytest.raises(InputError, match=r"in stages \[1, 2\]"):
        count_run(pipe, PLAN, replace(SAMPLER, num_inference_steps=1))


def test_costs_of_a_pipelines_models(pipe: DiTPipeline, banks: dict[str, Bank]) -> None:
    schedules = {method: mixed(bank) for method, bank in banks.items()}
    contenders = {"dense": nullcontext} | {
        method: routing_contender(pipe, banks[method], schedule) for method, schedule in schedules.items()
    }
    entry = LatencyEntry(1, "denoiser", LATENCY)
    costs = measure_costs(pipe, contenders, PLAN, SAMPLER, {"obs": (entry,)})
    calls = [call for _, call in record_calls(pipe, Requests((0,), (0,)), SAMPLER)]
    assert {len(call["class_labels"]) for call in calls} == {2}  # guidance
    dense = sum(count_macs(pipe.transformer, call) for call in calls)
    assert costs["dense"] == Cost(dense, 1.0, parameters(pipe.transformer))
    for method, schedule in schedules.items():
        own = costs[method]
        models = [pruned_model(pipe.transformer, banks[method], stage, schedule) for stage in range(3)]
        macs = sum(count_macs(models[PLAN.stage_of_step[step]], call) for step, call in enumerate(calls))
        assert (own.macs, own.macs_ratio, own.parameters) == (macs, macs / dense, parameters(pipe.transformer))
        assert all(less < own.parameters for less in own.parameters_per_stage)
    assert costs["obs"].latency == (entry,) and costs["wanda"].latency == ()


def test_without_the_dense_model_there_is_no_ratio(pipe: DiTPipeline) -> None:
    with pytest.raises(InputError, match="needs 'dense'"):
        measure_costs(pipe, {"uniform": nullcontext}, PLAN, SAMPLER)


def test_counting_changes_nothing(pipe: DiTPipeline) -> None:
    requests = Requests((0, 1), (0, 1))
    before = sample(pipe, requests, SAMPLER)
    count_run(pipe, PLAN, SAMPLER)
    assert torch.equal(sample(pipe, requests, SAMPLER), before)
    assert not pipe.transformer._forward_hooks and not pipe.transformer._forward_pre_hooks


def test_a_cost_survives_the_disk(tmp_path: Path) -> None:
    entries = (LatencyEntry(1, "denoiser", LATENCY), LatencyEntry(8, "pipeline", LATENCY))
    cost = Cost(100, 0.5, 40, (20, 30), entries, MemoryRecord(1, 2, 3, "cpu", "counted"), "stream")
    write_record(tmp_path / "cost.json", cost)
    assert read_record(tmp_path / "cost.json", Cost) == cost
    assert cost.latency_of(8) == LATENCY
    with pytest.raises(InputError, match="No latency of batch_size=2"):
        cost.latency_of(2)
