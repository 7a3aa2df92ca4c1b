"""Stitched models: the routed images, bit for bit, from full models that share nothing. Weights are random."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from torch import nn

from diff_es.bank import Bank
from diff_es.baselines.stitching import stitch_, stitched
from diff_es.denoisers import count_macs, denoiser_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.routing import Router, routed
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from routing_oracles import pruned_model
from support import (
    METHODS,
    PLAN,
    REQUESTS,
    SAMPLER,
    call_at,
    mixed_levels,
    same_state,
    snapshot,
    timestep_in,
    tiny_bank,
    tiny_pipe,
    tiny_stats,
)

_CHOSEN = ("obs+intercept", "wanda", "layerdrop")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def dense() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def banks(dense: DiTPipeline) -> dict[str, Bank]:
    with torch.no_grad():
        stats = tiny_stats(dense)
        return {method: tiny_bank(dense, method, stats=stats) for method in METHODS}


@pytest.fixture
def pipe(dense: DiTPipeline) -> DiTPipeline:
    return copy.deepcopy(dense)


def mixed(bank: Bank) -> PruningSchedule:
    """Every stage pruned, one of them wholly."""
    return bank.uniform_allocation().resolve(mixed_levels(bank))


def spans(module: nn.Module) -> list[tuple[int, int]]:
    """Memory of all parameters that are not empty, as (start, end)."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}
    return [(start, start + size) for start, size in storages.items() if size]


def overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in one for c, d in other)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_images_are_the_routed_ones_bit_for_bit(pipe: DiTPipeline, banks: dict[str, Bank], method: str) -> None:
    bank = banks[method]
    with routed(pipe, bank, mixed(bank)):
        wanted = sample(pipe, REQUESTS, SAMPLER)
    with stitched(pipe, bank, mixed(bank)):
        images = sample(pipe, REQUESTS, SAMPLER)
    assert torch.equal(images, wanted)
    assert not torch.equal(images, sample(pipe, REQUESTS, SAMPLER))


@pytest.mark.parametrize("method", _CHOSEN)
def test_each_stage_is_the_model_that_is_physically_smaller(
    pipe: DiTPipeline, banks: dict[str, Bank], method: str
) -> None:
    bank = banks[method]
    schedule = mixed(bank)
    dense = pipe.transformer
    models = stitch_(pipe, bank, schedule).stages
    assert len(models) == PLAN.num_stages
    for stage, model in enumerate(models):
        oracle = pruned_model(dense, bank, stage, schedule)
        call = call_at(timestep_in(stage))
        torch.testing.assert_close(model(**call).sample, oracle(**call).sample)
        assert count_macs(model, call) == count_macs(oracle, call) < count_macs(dense, call)
        assert parameters(model) < parameters(dense)


@pytest.mark.parametrize("method", _CHOSEN)
def test_no_two_models_share_memory(pipe: DiTPipeline, banks: dict[str, Bank], method: str, tmp_path: Path) -> None:
    """Also with a bank on disk, whose tensors may be views of one mapped file."""
    on_disk = tiny_bank(pipe, method, stats=tiny_stats(pipe), folder=tmp_path / "bank")
    dense = pipe.transformer
    for bank in (banks[method], on_disk):
        pipe.transformer = dense
        models = list(stitch_(pipe, bank, mixed(bank)).stages)
        for one, other in combinations([dense, *models], 2):
            assert spans(one) and spans(other)
            assert not overlap(spans(one), spans(other))


def test_models_take_what_routing_spares(pipe: DiTPipeline, banks: dict[str, Bank]) -> None:
    """Unpruned parts are there once per stage: n times the dense model less what was sliced away."""
    bank = banks["wanda"]
    schedule = mixed(bank)
    dense = parameters(pipe.transformer)
    router = Router(pipe.transformer, bank)
    router.set_schedule(schedule)
    sliced = 0
    for stage in range(PLAN.num_stages):
        router.point_at(stage)
        sliced += dense - parameters(pipe.transformer)
    router.point_at(None)
    assert parameters(stitch_(pipe, bank, schedule)) == PLAN.num_stages * dense - sliced


def test_a_dropped_block_keeps_only_what_others_borrow(pipe: DiTPipeline, banks: dict[str, Bank]) -> None:
    """The last layer of a DiT uses the embedder of block 0; nothing uses what is left of block 1."""
    bank = banks["layerdrop"]
    all_gone = bank.uniform_allocation().resolve((bank.num_levels,) * PLAN.num_stages)
    embedder = parameters(pipe.transformer.transformer_blocks[0].norm1.emb)
    for model in stitch_(pipe, bank, all_gone).stages:
        assert [parameters(block) for block in model.transformer_blocks] == [embedder, 0]


@pytest.mark.parametrize("method", _CHOSEN)
def test_a_dense_stage_is_a_whole_copy(pipe: DiTPipeline, banks: dict[str, Bank], method: str) -> None:
    bank = banks[method]
    schedule = bank.uniform_allocation().resolve((bank.num_levels, 0, 0))
    dense = pipe.transformer
    model = stitch_(pipe, bank, schedule).stages[1]
    for (name, own), (other, parameter) in zip(model.named_parameters(), dense.named_parameters(), strict=True):
        assert name == other and torch.equal(own, parameter)


def test_the_dense_denoiser_is_back_afterwards(pipe: DiTPipeline, banks: dict[str, Bank]) -> None:
    bank, dense = banks["obs"], pipe.transformer
    before, config = snapshot(dense), dict(pipe.config)
    with pytest.raises(ZeroDivisionError), stitched(pipe, bank, mixed(bank)) as inside:
        assert pipe.transformer is inside is not dense
        raise ZeroDivisionError
    assert pipe.transformer is dense and same_state(dense, before) and dict(pipe.config) == config


def test_stitched_models_move_with_the_pipeline(pipe: DiTPipeline, banks: dict[str, Bank]) -> None:
    bank = banks["obs"]
    stitch_(pipe, bank, mixed(bank))
    pipe.to(torch.float64)
    assert pipe.transformer.dtype == torch.float64
    assert {parameter.dtype for parameter in denoiser_of(pipe).parameters()} == {torch.float64}
    assert sample(pipe, REQUESTS, SAMPLER).isfinite().all()


def test_what_cannot_be_stitched_is_refused(pipe: DiTPipeline, banks: dict[str, Bank]) -> None:
    bank = banks["obs"]
    with pytest.raises(UnsupportedModelError, match="belong to another model"):
        stitch_(tiny_pipe(seed=1), bank, mixed(bank))
    with pytest.raises(InputError, match="names other layers"):
        stitch_(pipe, bank, mixed(banks["layerdrop"]))
    with routed(pipe, bank, mixed(bank)), pytest.raises(UnsupportedModelError, match="is routed"):
        stitch_(pipe, bank, mixed(bank))
    with stitched(pipe, bank, mixed(bank)), pytest.raises(UnsupportedModelError, match="is stitched already"):
        stitch_(pipe, bank, mixed(bank))
