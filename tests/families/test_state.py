"""A routed model of any family lives on: it is copied, moved, offloaded and saved like any other."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from diff_es.routing import apply_, is_routed, load, remove_, routed, save
from families.contract import contract, every_family
from families.family import Family, cast, output
from families.oracles import pruned_model
from families.prepared import STAGES, bank_of, call_in, denoiser_in, level, mixed
from support import SAMPLER, same_state, snapshot


def outputs(pipe: Any, family: Family) -> list[Tensor]:
    """What the model gives in every stage."""
    return [output(denoiser_in(pipe), call_in(family, stage)) for stage in STAGES]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(map(torch.equal, found, expected))


@contract
def test_copies_of_a_routed_model_are_independent(family: Family) -> None:
    pipe = family.pipe()
    bank = bank_of(family, "obs+intercept")
    dense = outputs(pipe, family)
    apply_(pipe, bank, mixed(bank))
    pruned = outputs(pipe, family)
    first, second = copy.deepcopy(pipe), copy.deepcopy(pipe)
    remove_(first)
    assert is_routed(pipe) and is_routed(second) and not is_routed(first)
    assert equal(outputs(first, family), dense)
    for stage in (None, *STAGES):
        vars(denoiser_in(second))["_diff_es_router"].point_at(stage)
        for parameter in denoiser_in(second).parameters():
            parameter.zero_()
    assert equal(outputs(pipe, family), pruned)
    remove_(pipe)
    assert equal(outputs(pipe, family), dense)


@contract
def test_dtype_changes_while_routed_reach_every_stage(family: Family) -> None:
    for dtypes in ((torch.float64,), (torch.float16, torch.bfloat16)):
        _change(family, dtypes)


def _change(family: Family, dtypes: tuple[torch.dtype, ...]) -> None:
    """One dtype after the other, then a comparison in the last."""
    pipe = family.pipe()
    bank = bank_of(family, "obs+intercept")
    schedule = mixed(bank)
    models = [pruned_model(denoiser_in(pipe), bank, stage, schedule) for stage in STAGES]
    before = snapshot(denoiser_in(pipe))
    apply_(pipe, bank, schedule)
    output(denoiser_in(pipe), call_in(family, 1))  # thin weights of a stage are attached when the dtype changes
    for dtype in dtypes:
        denoiser_in(pipe).to(dtype)
        models = [model.to(dtype) for model in models]
    for stage in (*STAGES, 0):
        call = cast(call_in(family, stage), dtypes[-1])
        result = output(denoiser_in(pipe), call)
        assert result.isfinite().all()
        assert torch.equal(result, output(models[stage], call))
    remove_(pipe)
    assert same_state(denoiser_in(pipe), before)
    assert {p.dtype for p in denoiser_in(pipe).parameters()} == {dtypes[-1]}


@contract
def test_the_state_dict_of_a_routed_model_is_the_dense_one(family: Family) -> None:
    pipe = family.pipe()
    dense = family.model().state_dict()
    bank = bank_of(family, "obs+intercept")
    with routed(pipe, bank, mixed(bank)):
        pruned = outputs(pipe, family)
        state = denoiser_in(pipe).state_dict()
        assert state.keys() == dense.keys()
        assert all(torch.equal(state[name], dense[name]) for name in dense)
        assert equal(outputs(pipe, family), pruned), "saving ended the routing"


@contract
def test_an_artefact_saved_and_loaded_gives_the_same_outputs(family: Family) -> None:
    for method in ("obs+intercept", "layerdrop"):
        pipe, bank = family.pipe(), bank_of(family, method)
        schedule = level(bank, 8, 3, 5)
        with routed(pipe, bank, schedule):
            expected = outputs(pipe, family)
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder) / "pruned", pipe, bank, schedule, sampler=SAMPLER, base_model="tiny")
            again = family.pipe()
            load(Path(folder) / "pruned", again)
            assert equal(outputs(again, family), expected)


@contract
def test_model_offload_in_both_orders(family: Family) -> None:
    """`enable_model_cpu_offload` replaces forwards and moves the model in each run; the CPU stands for the GPU."""
    for offload_first in (True, False):
        _offload(family, offload_first=offload_first)


def _offload(family: Family, *, offload_first: bool) -> None:
    pipe, bank = family.pipe(), bank_of(family, "obs+intercept")
    with routed(pipe, bank, mixed(bank)):
        pruned = outputs(pipe, family)
    if offload_first:
        pipe.enable_model_cpu_offload(device="cpu")
        outputs(pipe, family)
        pipe.maybe_free_model_hooks()
    apply_(pipe, bank, mixed(bank))
    if not offload_first:
        pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(denoiser_in(pipe), "_hf_hook")
    for _ in range(2):
        assert equal(outputs(pipe, family), pruned)
        pipe.maybe_free_model_hooks()


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@every_family
@torch.no_grad()
def test_a_compiled_forward_has_no_graph_break_in_any_stage(family: Family, backend: str) -> None:
    """The router's hook stays outside; each stage has shapes, and so a graph, of its own.

    Where diffusers' own forward breaks the graph, the routed one is compiled in pieces like the dense one.
    """
    pipe, bank = family.pipe(), bank_of(family, "obs+intercept")
    model = denoiser_in(pipe)
    torch.compiler.reset()
    if not family.whole_graph:
        model.forward = torch.compile(model.forward, backend=backend, fullgraph=True)
        with pytest.raises(TorchDynamoException):
            outputs(pipe, family)
        del model.forward
    with routed(pipe, bank, level(bank, 2, 5, 3)):
        expected = outputs(pipe, family)
        model.forward = torch.compile(model.forward, backend=backend, fullgraph=family.whole_graph)
        for found, wanted in zip(outputs(pipe, family), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    del model.forward
