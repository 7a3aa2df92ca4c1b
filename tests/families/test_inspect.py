"""`inspect` accounts for every parameter and every multiply-add of any family, once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diff_es.denoisers import Call, count_macs, on_device, own_macs, spec_of, take_rows
from diff_es.run import inspect_denoiser
from diff_es.run.inspect import UNNAMED
from families.contract import contract
from families.family import Family
from families.prepared import layers_of
from families.registry import FAMILIES
from families.test_costs import attention_of_one_group, tokens_of

DIT = FAMILIES[0]


def one_sample(family: Family, model: Any) -> Call:
    return take_rows(spec_of(model), family.call(500), torch.tensor([0]))


@contract
def test_parts_add_up_to_the_whole_model(family: Family) -> None:
    model = family.model()
    seen = inspect_denoiser(model, one_sample(family, model))
    assert seen.architecture == type(model).__name__
    assert seen.parameters == sum(p.numel() for p in model.parameters()) == sum(p.parameters for p in seen.parts)
    assert seen.macs == count_macs(model, one_sample(family, model)) == sum(part.macs for part in seen.parts)
    assert all(part.parameters or part.macs for part in seen.parts)


@contract
def test_prunable_parts_hold_their_layers_and_nothing_else(family: Family) -> None:
    """MACs by hand: every product of the layers' linears, and attention itself. Counted on a call of two samples."""
    model = family.model()
    parts = {part.name: part for part in inspect_denoiser(model, family.call(500)).parts}
    tokens = tokens_of(model, family.call(500))
    layers = layers_of(model)
    for kind in {layer.kind for layer in layers}:
        own = [layer for layer in layers if layer.kind == kind]
        groups = [(layer, group) for layer in own for group in layer.families]
        weights = {path: model.get_submodule(path).weight for layer in own for path in (*layer.inputs, *layer.outputs)}
        matrices = {path: weight for path, weight in weights.items() if weight.ndim > 1}
        assert parts[kind].layers == len(own)
        assert parts[kind].groups == tuple(sorted({group.count for _, group in groups}))
        assert parts[kind].parameters >= sum(weight.numel() for weight in weights.values())
        products = sum(weight.numel() * tokens[path] for path, weight in matrices.items())
        attention = sum(
            g.count * attention_of_one_group(family, layer, tokens) for layer, g in groups if g.kind == "head"
        )
        assert parts[kind].macs == products + attention


@contract
def test_everything_left_alone_is_named_with_a_reason(family: Family) -> None:
    model = family.model()
    for part in inspect_denoiser(model, one_sample(family, model)).parts:
        assert part.layers or (part.reason and part.reason != UNNAMED), part


@contract
def test_a_model_without_weights_looks_the_same(family: Family) -> None:
    """On the meta device, where diffusers' own forward runs there."""
    if not family.on_meta:
        return
    model = family.model()
    call = one_sample(family, model)
    expected = inspect_denoiser(model, call)
    assert inspect_denoiser(model.to("meta"), on_device(call, "meta")) == expected


class Stray(nn.Module):
    """Something with weights that diffusers adds one day."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.ones(3)), nn.Linear(2, 2)


def test_what_the_spec_forgot_is_a_part_of_its_own() -> None:
    model = DIT.model()
    for block in model.transformer_blocks:
        block.stray = Stray()
    parts = inspect_denoiser(model, one_sample(DIT, model)).parts
    assert [(part.name, part.parameters) for part in parts if part.reason == UNNAMED] == [
        ("transformer_blocks.*.stray.linear", 12),
        ("transformer_blocks.*.stray.scale", 6),
    ]


def test_work_of_a_borrowed_module_is_booked_where_it_is_done() -> None:
    """DiT's last layer calls the embedder of the first block once more."""
    model = DIT.model()
    own = own_macs(model, one_sample(DIT, model))
    first, second = (own[f"transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1"] for i in range(2))
    assert first == 2 * second > 0
