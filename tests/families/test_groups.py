"""What a spec says of its model: which groups there are, what each owns, in which order layers run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from diff_es.denoisers import Layer
from families.contract import contract
from families.family import Family, output
from families.oracles import owned
from families.prepared import layers_of


@contract
def test_the_groups_are_the_expected_ones(family: Family) -> None:
    found = {layer.name: tuple((own.kind, own.count) for own in layer.families) for layer in layers_of(family.model())}
    assert list(found.items()) == list(family.groups.items())


@contract
def test_kinds_follow_the_groups(family: Family) -> None:
    kinds = {("head",): "attention", ("channel",): "ffn", ("head", "channel"): "parallel"}
    for layer in layers_of(family.model()):
        assert layer.kind == kinds[tuple(own.kind for own in layer.families)]


@contract
def test_every_row_and_column_is_owned_once(family: Family) -> None:
    model = family.model()
    for layer in layers_of(model):
        for path in layer.inputs:
            rows = [row for own in layer.families for row in owned(own.rows, path, range(own.count))]
            assert sorted(rows) == list(range(len(weight(model, path)))), path
        for path in layer.outputs:
            columns = [column for own in layer.families for column in owned(own.columns, path, range(own.count))]
            assert sorted(columns) == list(range(weight(model, path).shape[1])), path


@contract
def test_what_is_lost_is_what_the_groups_that_left_owned(family: Family) -> None:
    for layer in layers_of(family.model()):
        gone = [own.count // 2 + index for index, own in enumerate(layer.families)]
        rows, columns = layer.lost(gone)
        assert set(rows) == set(layer.inputs) and set(columns) == set(layer.outputs)
        pairs = list(zip(layer.families, gone, strict=True))
        for path in layer.inputs:
            assert rows[path] == sum(len(owned(own.rows, path, range(count))) for own, count in pairs)
        for path in layer.outputs:
            assert columns[path] == sum(len(owned(own.columns, path, range(count))) for own, count in pairs)


@contract
def test_no_module_belongs_to_two_layers(family: Family) -> None:
    uses = Counter(path for layer in layers_of(family.model()) for path in (*layer.inputs, *layer.outputs))
    assert max(uses.values()) == 1


@contract
def test_every_matrix_of_an_attention_or_ffn_is_in_its_layer(family: Family) -> None:
    """A projection that the spec forgot would keep its full width."""
    model = family.model()
    for layer in layers_of(model):
        modules = dict(model.get_submodule(layer.name).named_modules(prefix=layer.name))
        inside = {path for path, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)}
        assert inside <= {*layer.inputs, *layer.outputs, f"{layer.name}.norm.linear"}


@contract
def test_attributes_are_those_of_the_dense_model(family: Family) -> None:
    """Else a layer that keeps all groups would not be the dense one."""
    model = family.model()
    for layer in layers_of(model):
        for own in layer.families:
            for item in own.attributes:
                known = vars(model.get_submodule(item.module))[item.name]
                assert item.value(own.count) == (tuple(known) if item.as_shape else known), item


@contract
def test_layers_and_blocks_are_listed_in_running_order(family: Family) -> None:
    for blocks in (False, True):
        model = family.model()
        layers = layers_of(model, blocks=blocks)
        assert running_order(model, layers, family) == [layer.name for layer in layers]


def running_order(model: Any, layers: tuple[Layer, ...], family: Family) -> list[str]:
    seen: list[str] = []
    for layer in layers:
        model.get_submodule(layer.name).register_forward_pre_hook(lambda *_, name=layer.name: seen.append(name))
    output(model, family.call(500))
    return seen


def weight(model: Any, path: str) -> Any:
    return model.get_submodule(path).weight
