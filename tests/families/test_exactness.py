"""A routed model computes what it should: dense at level 0, masked, physically pruned; then dense again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diff_es.denoisers import Layer
from diff_es.routing import Mode, is_routed, routed
from families.contract import contract, every_family
from families.family import Family, KeepDoubles, cast, output
from families.oracles import kept_of, masked_model, pruned_model
from families.prepared import STAGES, bank_of, call_in, denoiser_in, layers_of, level, mixed, only
from support import same_state, snapshot


@contract
def test_level_0_is_the_dense_model_bit_for_bit(family: Family) -> None:
    pipe = family.pipe()
    model = denoiser_in(pipe)
    before = dict(model.named_parameters())
    dense = [output(model, call_in(family, stage)) for stage in STAGES]
    bank = bank_of(family, "obs+intercept")
    with routed(pipe, bank, level(bank, 0, 0, 0)):
        for stage in STAGES:
            assert torch.equal(output(model, call_in(family, stage)), dense[stage])
            now = dict(model.named_parameters())
            assert now.keys() == before.keys()
            assert all(now[name] is before[name] for name in now)


@contract
def test_sliced_equals_masked_in_float64(family: Family) -> None:
    """In every layer at once; where a norm runs across the heads, in every FFN."""
    bank = bank_of(family, "obs+intercept")
    pipe = family.pipe()
    names = [layer.name for layer in layers_of(denoiser_in(pipe)) if family.masks or layer.kind == "ffn"]
    for stage, at in zip(STAGES, (1, 5, 7), strict=True):
        schedule = only(bank, dict.fromkeys(names, at))
        call = cast(call_in(family, stage), torch.float64)
        with KeepDoubles():
            dense = output(family.model().double(), call)
            expected = output(masked_model(denoiser_in(pipe), bank, stage, schedule).double(), call)
        with routed(pipe, bank, schedule):
            denoiser_in(pipe).double()
            with KeepDoubles():
                found = output(denoiser_in(pipe), call)
            denoiser_in(pipe).float()
        assert (found - dense).abs().max() > 1e-4 * dense.abs().max()
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("mode", ["resident", "stream", "gather"])
@every_family
@torch.no_grad()
def test_the_routed_model_equals_physically_pruned_ones_bit_for_bit(family: Family, mode: Mode) -> None:
    bank = bank_of(family, "obs+intercept")
    pipe = family.pipe()
    for schedule in (mixed(bank), level(bank, 2, 7, 4)):
        models = [pruned_model(denoiser_in(pipe), bank, stage, schedule) for stage in STAGES]
        with routed(pipe, bank, schedule, mode=mode):
            for stage in (2, 1, 0, 2):
                call = call_in(family, stage)
                assert torch.equal(output(denoiser_in(pipe), call), output(models[stage], call))


@contract
def test_without_any_group_only_biases_are_left_bit_for_bit(family: Family) -> None:
    bank = bank_of(family, "obs+intercept")
    pipe = family.pipe()
    schedule = level(bank)
    call = call_in(family, 1)
    expected = output(masked_model(denoiser_in(pipe), bank, 1, schedule), call)
    with routed(pipe, bank, schedule):
        assert torch.equal(output(denoiser_in(pipe), call), expected)


@contract
def test_an_attention_whose_norm_runs_across_the_heads_equals_a_smaller_one(family: Family) -> None:
    """The module alone, built by its own class for fewer heads, with the rows of the kept ones copied into it."""
    if family.smaller is None:
        return
    bank = bank_of(family, "magnitude")
    dense, pipe = family.model(), family.pipe()
    attentions = [layer for layer in layers_of(dense) if layer.kind == "attention"]
    levels = (2, 3, 5)
    with routed(pipe, bank, level(bank, *levels)):
        for stage in STAGES:
            runs = recorded(denoiser_in(pipe), attentions, call_in(family, stage))
            for layer in attentions:
                (kept,) = kept_of(layer, bank.thin(stage, layer, levels[stage]))
                arguments, given, result = runs[layer.name]
                assert 0 < len(kept) < layer.num_groups
                # Not bit for bit: sums may run in another order in a module of its own.
                expected = smaller(family, dense, layer.name, kept)(*arguments, **given)
                torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


@contract
def test_leaving_restores_the_very_same_tensors(family: Family) -> None:
    pipe = family.pipe()
    model = denoiser_in(pipe)
    dense, before = output(model, call_in(family, 0)), snapshot(model)
    for method in ("obs+intercept", "layerdrop"):
        bank = bank_of(family, method)
        with routed(pipe, bank, level(bank, 7, 7, 8)):
            assert is_routed(pipe)
            assert not torch.equal(output(model, call_in(family, 0)), dense)
            assert not same_state(model, before)
        assert not is_routed(pipe)
        assert same_state(model, before)
        assert torch.equal(output(model, call_in(family, 0)), dense)


def smaller(family: Family, dense: Any, path: str, kept: list[int]) -> nn.Module:
    """A new attention module of fewer heads, with the rows and columns of the kept ones."""
    assert family.smaller is not None
    whole, small = dense.get_submodule(path), family.smaller(dense, path, len(kept)).eval()
    parameters = dict(whole.named_parameters())
    for name, parameter in small.named_parameters():
        values = parameters.pop(name)
        for axis, (few, all_) in enumerate(zip(parameter.shape, values.shape, strict=True)):
            if few != all_:
                size = all_ // whole.heads
                at = torch.tensor([head * size + i for head in kept for i in range(size)])
                values = values.index_select(axis, at)
        parameter.copy_(values)
    assert not parameters, "the smaller module lacks some"
    return small


def recorded(model: Any, layers: list[Layer], call: dict[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
    """What each layer's module was called with in one call of the model, and what it returned."""
    runs: dict[str, tuple[Any, Any, Any]] = {}

    def keep(name: str) -> Any:
        return lambda _, arguments, given, result: runs.update({name: (arguments, given, result)})

    handles = [
        model.get_submodule(layer.name).register_forward_hook(keep(layer.name), with_kwargs=True) for layer in layers
    ]
    output(model, call)
    for handle in handles:
        handle.remove()
    return runs
