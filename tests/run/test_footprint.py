"""Predicted sizes against what is really stored, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from torch import Tensor

from diff_es.calibration import CalibrationConfig, calibrate
from diff_es.denoisers import spec_of
from diff_es.pruning import BankConfig, build_bank, pruners
from diff_es.run.footprint import ENTRY, footprint
from families.family import Family
from families.registry import FAMILIES
from support import PLAN, tiny_pipe, tiny_source


def stored(sets: Iterable[Mapping[str, Tensor]]) -> int:
    tensors = [tensors[name] for tensors in sets for name in tensors]
    return sum(tensor.numel() * tensor.element_size() + ENTRY for tensor in tensors)


@pytest.mark.parametrize("num_levels", [4, 7])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", ["obs", "obs+intercept", "wanda", "magnitude", "layerdrop", "obs-diff"])
def test_calibration_and_bank_are_as_large_as_predicted(method: str, shared: bool, num_levels: int) -> None:
    name, _, intercept = method.partition("+")
    pipe = tiny_pipe("geglu")
    layers = spec_of(pipe.transformer).layers(pipe.transformer, blocks=pruners[name].depth)
    config = CalibrationConfig(PLAN, pruners[name].needs, shared=shared)
    stats = calibrate(pipe, tiny_source(2), config)
    bank = build_bank(pipe, stats, PLAN, BankConfig(name, num_levels, intercept=bool(intercept)))
    predicted = footprint(
        pipe.transformer,
        layers,
        method=name,
        num_levels=num_levels,
        stages=PLAN.num_stages,
        shared=shared,
        intercept=bool(intercept),
    )
    assert predicted.calibration_bytes == stored(stats.sets)
    assert predicted.bank_bytes == stored(bank.shards)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_shapes_are_enough(family: Family) -> None:
    """A model without weights is measured like one with them."""
    real = family.model()
    bare = family.model().to("meta")
    sizes = [
        footprint(model, spec_of(model).width_layers(model), method="obs", num_levels=4, stages=3)
        for model in (real, bare)
    ]
    assert sizes[0] == sizes[1]
    widest = max(
        sum(8 * real.get_submodule(path).weight.shape[1] ** 2 for path in layer.outputs)
        for layer in spec_of(real).width_layers(real)
    )
    assert widest <= sizes[0].largest_hessian_bytes <= 1.2 * widest
    assert sizes[0].hessian_bytes >= sizes[0].largest_hessian_bytes
