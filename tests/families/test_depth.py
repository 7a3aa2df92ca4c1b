"""LayerDrop of any family: a dropped block passes on what goes in, and nothing else changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from diff_es.routing import routed
from diff_es.schedule import PruningSchedule
from families.contract import contract
from families.family import Family, output
from families.prepared import STAGES, bank_of, call_in, denoiser_in, layers_of
from support import same_state, snapshot


def passing(block: Any, names: tuple[str, ...]) -> Callable[..., Any]:
    """A forward that returns some of its arguments, whichever way they are given."""
    signature = inspect.signature(type(block).forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(block, *args, **kwargs).arguments
        streams = tuple(given[name] for name in names)
        return streams if len(streams) > 1 else streams[0]

    return forward


def without(family: Family, dropped: Iterable[str]) -> Any:
    """A model some of whose blocks do nothing."""
    model = family.model()
    for path in dropped:
        block = model.get_submodule(path)
        block.forward = passing(block, family.returned(path))
    return model


@contract
def test_dropped_blocks_pass_on_their_inputs_bit_for_bit(family: Family) -> None:
    """Each block alone, and all of them."""
    bank = bank_of(family, "layerdrop")
    pipe = family.pipe()
    before = snapshot(denoiser_in(pipe))
    names = [layer.name for layer in layers_of(denoiser_in(pipe), blocks=True)]
    assert list(bank.layers) == names
    sets = [{name} for name in names] + [set(names)]
    for dropped in sets:
        row = tuple(bank.num_levels * (name in dropped) for name in names)
        schedule = PruningSchedule((0,) * len(STAGES), bank.layers, (row,) * len(STAGES), bank.num_levels)
        expected = output(without(family, dropped), call_in(family, 1))
        with routed(pipe, bank, schedule):
            assert torch.equal(output(denoiser_in(pipe), call_in(family, 1)), expected)
        assert same_state(denoiser_in(pipe), before)


@contract
def test_every_block_matters(family: Family) -> None:
    """Else the test above would compare dense with dense."""
    dense = output(family.model(), call_in(family, 1))
    for layer in layers_of(family.model(), blocks=True):
        assert not torch.equal(output(without(family, [layer.name]), call_in(family, 1)), dense), layer.name


@contract
def test_every_attention_and_ffn_lies_in_a_block(family: Family) -> None:
    model = family.model()
    blocks = tuple(layer.name for layer in layers_of(model, blocks=True))
    for layer in layers_of(model):
        assert any(f"{layer.name}.".startswith(f"{block}.") for block in blocks)
