"""Two independent oracles for any family: a model that is physically smaller, and the dense one with zeroed columns.

They read from a layer which rows and columns its groups own, and do all arithmetic on them by themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from diff_es.bank import ThinLayer, ThinSource
from diff_es.denoisers import Layer
from diff_es.denoisers.layers import Span
from diff_es.schedule import PruningSchedule
from families.prepared import layers_of
from families.stand_ins import EmptyResult, NoChannels, NoHeads, OnlyChannels

_PER_HEAD = ("heads", "inner_dim", "inner_kv_dim", "kv_inner_dim", "sliceable_head_dim")


def kept_of(layer: Layer, thin: ThinLayer) -> list[list[int]]:
    """The groups that each family of the layer keeps, numbered from 0."""
    kept, first = [], 0
    for family in layer.families:
        kept.append([group - first for group in thin.kept.tolist() if first <= group < first + family.count])
        first += family.count
    return kept


def owned(spans: Iterable[Span], path: str, groups: Iterable[int]) -> list[int]:
    """The rows, or columns, of one weight that these groups own."""
    own = [span for span in spans if span.path == path]
    return [span.offset + group * span.size + i for span in own for group in groups for i in range(span.size)]


def rows_left(layer: Layer, thin: ThinLayer, path: str, length: int) -> list[int]:
    return _left([family.rows for family in layer.families], layer, thin, path, length)


def columns_left(layer: Layer, thin: ThinLayer, path: str, length: int) -> list[int]:
    return _left([family.columns for family in layer.families], layer, thin, path, length)


def _left(spans: list[tuple[Span, ...]], layer: Layer, thin: ThinLayer, path: str, length: int) -> list[int]:
    gone: set[int] = set()
    for family, own, kept in zip(layer.families, spans, kept_of(layer, thin), strict=True):
        gone |= set(owned(own, path, set(range(family.count)) - set(kept)))
    return [index for index in range(length) if index not in gone]


def pruned_model(denoiser: nn.Module, source: ThinSource, stage: int, schedule: PruningSchedule) -> Any:
    """A copy of the dense denoiser with new, smaller modules: what one stage should compute."""
    smaller = copy.deepcopy(denoiser)
    for layer, level in zip(layers_of(denoiser), schedule.layer_levels[stage], strict=True):
        if level:
            shrink(smaller, layer, source.thin(stage, layer, level))
    return smaller


def shrink(model: nn.Module, layer: Layer, thin: ThinLayer) -> None:
    """Replace the modules of one layer by smaller ones."""
    for path in layer.inputs:
        module: Any = model.get_submodule(path)
        replace(model, path, _fewer_rows(module, rows_left(layer, thin, path, len(module.weight))))
    for path in layer.outputs:
        module = model.get_submodule(path)
        keep = columns_left(layer, thin, path, module.weight.shape[1])
        weight = thin.outputs.get(f"{path}.weight", module.weight[:, keep])
        replace(model, path, _like(module, weight, thin.outputs.get(f"{path}.bias", module.bias)))
    kept = kept_of(layer, thin)
    for family, own in zip(layer.families, kept, strict=True):
        _count(model, layer, family.kind, len(own) / family.count)
    if not kept[0]:
        _stand_in(model, layer)


def _count(model: nn.Module, layer: Layer, kind: str, share: float) -> None:
    """Set the numbers that follow the heads, or the channels of a parallel layer."""
    names = _PER_HEAD if kind == "head" else ("mlp_hidden_dim",)
    for path in (layer.name, f"{layer.name}.attn"):
        own: dict[str, Any] = vars(model.get_submodule(path)) if _exists(model, path) else {}
        own.update({name: round(own[name] * share) for name in names if name in own})


def _stand_in(model: nn.Module, layer: Layer) -> None:
    """Put modules of our own where no head, or no channel of a convolutional FFN, is left."""
    module: Any = model.get_submodule(layer.name)
    if layer.kind == "attention":
        replace(model, layer.name, NoHeads(module))
    elif layer.kind == "parallel" and hasattr(module, "to_qkv_mlp_proj"):
        replace(model, layer.name, OnlyChannels(module))
    elif layer.kind == "parallel":
        replace(model, f"{layer.name}.attn", EmptyResult())
    elif hasattr(module, "conv_point"):
        replace(model, layer.name, NoChannels())


def _fewer_rows(module: Any, rows: list[int]) -> nn.Module:
    if module.weight.ndim == 1:
        norm = copy.deepcopy(module)
        norm.weight = _fixed(module.weight[rows])
        if isinstance(norm, nn.RMSNorm):
            norm.normalized_shape = (len(rows),)
        return norm
    return _like(module, module.weight[rows], None if module.bias is None else module.bias[rows])


def _like(module: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A new linear or convolution of these weights."""
    new: Any
    if isinstance(module, nn.Linear):
        new = nn.Linear(1, 1)  # torch warns when it initialises one without elements
    else:
        new = nn.Conv2d(1, 1, module.kernel_size, module.stride, module.padding)
        new.groups = len(weight) if module.groups > 1 else 1
    new.weight = _fixed(weight)
    new.bias = None if bias is None else _fixed(bias)
    return new


def _fixed(tensor: Tensor) -> nn.Parameter:
    """Without gradients, as all weights here: torch rounds some products otherwise where a weight asks for them."""
    return nn.Parameter(tensor.detach().clone().contiguous(), requires_grad=False)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _exists(model: nn.Module, path: str) -> bool:
    return path in dict(model.named_modules())


def masked_model(denoiser: nn.Module, source: ThinSource, stage: int, schedule: PruningSchedule) -> Any:
    """A copy of full width: removed columns of the output projections are zero, kept ones compensated."""
    masked = copy.deepcopy(denoiser)
    for layer, level in zip(layers_of(denoiser), schedule.layer_levels[stage], strict=True):
        if level == 0:
            continue
        thin = source.thin(stage, layer, level)
        for path in layer.outputs:
            module: Any = masked.get_submodule(path)
            keep = columns_left(layer, thin, path, module.weight.shape[1])
            full = torch.zeros_like(module.weight)
            full[:, keep] = thin.outputs.get(f"{path}.weight", module.weight[:, keep])
            bias = thin.outputs.get(f"{path}.bias", module.bias)
            replace(masked, path, _like(module, full, bias))
    return masked
