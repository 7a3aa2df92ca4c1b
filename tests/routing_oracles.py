"""Two independent oracles for routing: a model that is physically smaller, and the dense one with zeroed columns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diff_es.bank import ThinLayer, ThinSource
from diff_es.denoisers import Layer, spec_of
from diff_es.schedule import PruningSchedule


class BiasOnly(nn.Module):
    """An attention module without heads."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.zeros_like(hidden_states) + self.bias


class Passage(nn.Module):
    """A dropped block: only the embedder that the final layer borrows from block 0 is left."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1 = block.norm1

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


def pruned_model(denoiser: nn.Module, source: ThinSource, stage: int, schedule: PruningSchedule) -> nn.Module:
    """A copy of the dense denoiser with new, smaller modules: what one stage should compute."""
    smaller = copy.deepcopy(denoiser)
    layers = spec_of(denoiser).layers(denoiser, blocks=source.depth)
    for layer, level in zip(layers, schedule.layer_levels[stage], strict=True):
        if level == 0:
            continue
        thin = source.thin(stage, layer, level)
        if layer.kind == "block":
            replace(smaller, layer.name, Passage(smaller.get_submodule(layer.name)))
        elif layer.kind == "attention" and len(thin.kept) == 0:
            (output,) = layer.outputs
            bias = thin.outputs.get(f"{output}.bias", smaller.get_submodule(output).bias)
            replace(smaller, layer.name, BiasOnly(bias.detach().clone()))
        else:
            shrink(smaller, layer, thin)
    return smaller


def shrink(model: nn.Module, layer: Layer, thin: ThinLayer) -> None:
    """Replace the linears of one layer by smaller ones."""
    keep = kept_columns(layer, thin)
    (output,) = layer.outputs
    dense = model.get_submodule(output)
    width = dense.in_features
    weight = thin.outputs.get(f"{output}.weight", dense.weight[:, keep])
    replace(model, output, linear(weight, thin.outputs.get(f"{output}.bias", dense.bias)))
    for path in layer.inputs:
        dense = model.get_submodule(path)
        rows = [half + column for half in range(0, dense.out_features, width) for column in keep]
        replace(model, path, linear(dense.weight[rows], dense.bias[rows]))
    if layer.kind == "attention":
        attention = model.get_submodule(layer.name)
        attention.heads = len(thin.kept)
        attention.inner_dim = attention.inner_kv_dim = len(keep)


def kept_columns(layer: Layer, thin: ThinLayer) -> list[int]:
    size = layer.families[0].columns[0].size
    return [group * size + offset for group in thin.kept.tolist() for offset in range(size)]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    new = nn.Linear(1, 1)  # torch warns when it initialises one without elements
    new.weight = nn.Parameter(weight.detach().clone().contiguous())
    new.bias = nn.Parameter(bias.detach().clone())
    return new


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@contextmanager
def dispatched(denoiser: nn.Module, source: ThinSource, schedule: PruningSchedule) -> Iterator[None]:
    """Let the pipeline call the physically pruned model of each timestep's stage."""
    models = [pruned_model(denoiser, source, stage, schedule) for stage in range(schedule.num_stages)]

    def forward(*args: Any, **kwargs: Any) -> Any:
        return models[source.plan.stage_at(float(kwargs["timestep"][0]))](*args, **kwargs)

    denoiser.forward = forward
    try:
        yield
    finally:
        del denoiser.forward


def masked_model(denoiser: nn.Module, source: ThinSource, stage: int, schedule: PruningSchedule) -> nn.Module:
    """A copy of full width: removed columns of the output projections are zero, kept ones compensated."""
    masked = copy.deepcopy(denoiser)
    layers = spec_of(denoiser).layers(denoiser, blocks=source.depth)
    for layer, level in zip(layers, schedule.layer_levels[stage], strict=True):
        if level == 0:
            continue
        thin = source.thin(stage, layer, level)
        if layer.kind == "block":
            replace(masked, layer.name, Passage(masked.get_submodule(layer.name)))
            continue
        keep = kept_columns(layer, thin)
        (path,) = layer.outputs
        output = masked.get_submodule(path)
        full = torch.zeros_like(output.weight)
        full[:, keep] = thin.outputs.get(f"{path}.weight", output.weight[:, keep]).to(full.dtype)
        output.weight = nn.Parameter(full)
        output.bias = nn.Parameter(thin.outputs.get(f"{path}.bias", output.bias).to(full.dtype))
    return masked
