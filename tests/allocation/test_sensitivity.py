"""Sensitivity allocation: its errors by hand, its MACs as counted on the routed model."""

from __future__ import annotations

import copy
from functools import cache
from itertools import product

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.allocation import Sensitivity, measure_sensitivity
from diff_es.bank import Bank
from diff_es.calibration import SamplingSource
from diff_es.denoisers import count_macs
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.routing import routed
from diff_es.sampling import SamplerConfig
from diff_es.schedule import Allocation, PruningSchedule
from routing_oracles import masked_model
from support import METHODS, PLAN, REQUESTS, SAMPLER, same_state, snapshot, tiny_bank, tiny_pipe, tiny_source

LEVELS = 8
STAGES = range(PLAN.num_stages)
every_method = pytest.mark.parametrize("method", METHODS)


@cache
def _dense() -> DiTPipeline:
    return tiny_pipe()


@cache
def _bank(method: str) -> Bank:
    return tiny_bank(_dense(), method, LEVELS)


@cache
def _measured(method: str) -> Sensitivity:
    return measure_sensitivity(copy.deepcopy(_dense()), _bank(method), tiny_source(), samples=6)


@pytest.fixture
def pipe() -> DiTPipeline:
    return copy.deepcopy(_dense())


@pytest.fixture
def bank(method: str) -> Bank:
    return _bank(method)


@pytest.fixture
def measured(method: str) -> Sensitivity:
    return _measured(method)


@pytest.fixture
def allocation(bank: Bank, measured: Sensitivity) -> Allocation:
    return measured.allocation(bank.uniform_allocation())


def one_layer(bank: Bank, stage: int, layer: int, level: int) -> PruningSchedule:
    dense = (0,) * len(bank.layers)
    row = tuple(level if index == layer else 0 for index in range(len(bank.layers)))
    return PruningSchedule((0,) * 3, bank.layers, tuple(row if s == stage else dense for s in STAGES), bank.num_levels)


@torch.no_grad()
@every_method
def test_errors_equal_those_of_masked_models(pipe: DiTPipeline, bank: Bank, measured: Sensitivity) -> None:
    """One layer alone at one level, in float64, on six rows taken evenly from the first call of the stage."""
    rows = torch.linspace(0, 15, 6).long()
    for stage in (0, 2):
        call = {name: tensor[rows] for name, tensor in next(tiny_source().calls(pipe, PLAN, stage)).items()}
        call["hidden_states"] = call["hidden_states"].double()
        dense = copy.deepcopy(pipe.transformer).double()(**call).sample
        for layer, index in product(range(len(bank.layers)), range(len(measured.levels))):
            level = measured.levels[index]
            found = measured.errors[stage][layer][index]
            if level == 0:
                assert found == 0
                continue
            model = masked_model(pipe.transformer, bank, stage, one_layer(bank, stage, layer, level)).double()
            expected = (model(**call).sample - dense).square().mean()
            assert found == pytest.approx(float(expected), rel=1e-3, abs=1e-12), (stage, layer, level)


@every_method
def test_macs_are_those_of_the_layer(pipe: DiTPipeline, bank: Bank, measured: Sensitivity) -> None:
    call = {name: tensor[:1] for name, tensor in next(tiny_source().calls(pipe, PLAN, 0)).items()}
    everything = count_macs(pipe.transformer, call)
    for layer in range(len(bank.layers)):
        assert measured.macs[layer][-1] == 0
        for index, level in enumerate(measured.levels):
            with routed(pipe, bank, one_layer(bank, 0, layer, level)):
                left = count_macs(pipe.transformer, call)
            assert everything - left == measured.macs[layer][0] - measured.macs[layer][index]
    if not bank.depth:
        tokens, width = 16, 16
        assert measured.macs[0][0] == 4 * tokens * width * width + 2 * tokens * tokens * width
        assert measured.macs[1][0] == 2 * tokens * width * 4 * width


@every_method
def test_no_level_costs_more_than_uniform(pipe: DiTPipeline, bank: Bank, allocation: Allocation) -> None:
    uniform = bank.uniform_allocation()
    for stage, level in product(STAGES, range(LEVELS + 1)):
        call = {name: tensor[:1] for name, tensor in next(tiny_source().calls(pipe, PLAN, stage)).items()}
        levels = tuple(level if s == stage else 0 for s in STAGES)
        macs = []
        for chosen in (allocation, uniform):
            with routed(pipe, bank, chosen.resolve(levels)):
                macs.append(count_macs(pipe.transformer, call))
        assert macs[0] <= macs[1], (stage, level)


@every_method
def test_no_level_hurts_more_than_uniform(bank: Bank, measured: Sensitivity, allocation: Allocation) -> None:
    """By the measured errors, summed over layers; each row is the least of all that cost no more."""
    uniform = bank.uniform_allocation()
    size = len(measured.levels)

    def total(table: tuple[tuple[float, ...], ...], row: tuple[int, ...]) -> float:
        return sum(values[measured.levels.index(level)] for values, level in zip(table, row, strict=True))

    gains = 0
    choices = list(product(range(size), repeat=len(bank.layers)))
    costs = [sum(measured.macs[layer][k] for layer, k in enumerate(choice)) for choice in choices]
    for stage, level in product(STAGES, range(1, LEVELS + 1)):
        errors = measured.errors[stage]
        row, plain = allocation.table[stage][level], uniform.table[stage][level]
        limit = total(measured.macs, plain)
        least = min(
            sum(errors[layer][k] for layer, k in enumerate(choice))
            for choice, cost in zip(choices, costs, strict=True)
            if cost <= limit
        )
        assert total(errors, row) == pytest.approx(least, rel=1e-12, abs=1e-300)
        gains += total(errors, row) < total(errors, plain)
    assert gains > 0 or bank.depth


@every_method
def test_level_0_is_dense_and_level_h_is_empty(bank: Bank, measured: Sensitivity, allocation: Allocation) -> None:
    for rows in allocation.table:
        assert rows[0] == (0,) * len(bank.layers)
        # With four heads, levels 7 and 8 of 8 remove the same; the lower one is taken.
        assert all(macs[measured.levels.index(x)] == 0 for macs, x in zip(measured.macs, rows[LEVELS], strict=True))
    assert allocation.num_levels == LEVELS
    assert allocation.name == "sensitivity"
    assert allocation.layers == bank.layers


@pytest.mark.parametrize("method", ["layerdrop"])
def test_blocks_are_there_or_gone(measured: Sensitivity, allocation: Allocation) -> None:
    assert measured.levels == (0, LEVELS)
    assert {level for rows in allocation.table for row in rows for level in row} == {0, LEVELS}


@pytest.mark.parametrize("method", ["obs"])
def test_nearly_all_of_the_uniform_macs_are_used(bank: Bank, measured: Sensitivity) -> None:
    """Where errors rise with every level, a small step is left over at most: less than the smallest of any layer."""
    rising = tuple(
        tuple(tuple((layer + 1) * float(level) for level in measured.levels) for layer in range(len(bank.layers)))
        for _ in STAGES
    )
    chosen = Sensitivity(measured.layers, measured.levels, rising, measured.macs).allocation(bank.uniform_allocation())
    everything = sum(row[0] for row in measured.macs)
    smallest = min(row[k] - row[k + 1] for row in measured.macs for k in range(LEVELS) if row[k] > row[k + 1])
    for level in range(LEVELS + 1):
        spent = [
            sum(macs[level] for macs, level in zip(measured.macs, table[level], strict=True))
            for table in (chosen.table[0], bank.uniform_allocation().table[0])
        ]
        assert spent[1] - max(smallest, everything // 100) <= spent[0] <= spent[1]


@every_method
def test_the_model_is_left_as_it_was(pipe: DiTPipeline, bank: Bank) -> None:
    before = snapshot(pipe.transformer)
    measure_sensitivity(pipe, bank, tiny_source(), samples=2)
    assert same_state(pipe.transformer, before)

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    handle = pipe.transformer.proj_out_2.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="power cut"):
        measure_sensitivity(pipe, bank, tiny_source(), samples=2)
    handle.remove()
    assert same_state(pipe.transformer, before)


def test_measuring_is_repeatable() -> None:
    again = measure_sensitivity(copy.deepcopy(_dense()), _bank("obs"), tiny_source(), samples=6)
    assert again == _measured("obs")


def test_the_sampling_source_serves_too(pipe: DiTPipeline) -> None:
    measured = measure_sensitivity(pipe, _bank("wanda"), SamplingSource(REQUESTS, SAMPLER), samples=4)
    assert all(error > 0 for stage in measured.errors for layer in stage for error in layer[1:])
    with pytest.raises(InputError, match="no denoiser call in stage 2"):
        measure_sensitivity(pipe, _bank("wanda"), SamplingSource(REQUESTS, SamplerConfig(2)), samples=4)


def test_another_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="another model"):
        measure_sensitivity(tiny_pipe(seed=1), _bank("obs"), tiny_source())
