"""Where a layer's weights sit in the model, and what goes there when only some groups are kept.

diffusers' forward stays untouched: a pruned layer is the same modules with thinner parameters and a few integers
(`heads`, …) to match. A *slot* is one such place; a layer's *values* are what fills its slots, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from diff_es.bank import group_columns
from diff_es.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.bank import ThinLayer
    from diff_es.denoisers import Layer

#: A parameter, an integer, a bound forward, or None for "as in the dense model".
Value: TypeAlias = nn.Parameter | int | Callable[..., Any] | None


@dataclass(frozen=True)
class Slot:
    """One place in a module: a parameter, an integer attribute, or the instance's forward."""

    module: nn.Module
    kind: Literal["parameter", "attribute", "forward"]
    name: str

    def read(self) -> Any:
        """Return what is there; None for a forward that is the class's own."""
        if self.kind == "parameter":
            return self.module._parameters[self.name]
        return vars(self.module).get(self.name)

    def write(self, value: Any) -> None:
        """Put a value there.

        `_parameters` and `__dict__` are written directly: the checks of nn.Module.__setattr__ cost more than the
        assignment, and a stage switch makes hundreds of them.
        """
        if self.kind == "parameter":
            self.module._parameters[self.name] = value
        elif value is None:
            vars(self.module).pop(self.name, None)
        else:
            vars(self.module)[self.name] = value


def layer_slots(denoiser: nn.Module, layer: Layer) -> tuple[Slot, ...]:
    """Return the slots of a layer: input linears, output linear, attributes, forward."""
    slots = []
    for path in layer.inputs:
        slots += [*_parameters(denoiser, path), Slot(denoiser.get_submodule(path), "attribute", "out_features")]
    if layer.output:
        output = denoiser.get_submodule(layer.output)
        slots += [*_parameters(denoiser, layer.output), Slot(output, "attribute", "in_features")]
    slots += [Slot(denoiser.get_submodule(item.module), "attribute", item.name) for item in layer.attributes]
    if layer.absent is not None:
        slots.append(Slot(denoiser.get_submodule(layer.name), "forward", "forward"))
    return tuple(slots)


def layer_values(denoiser: nn.Module, layer: Layer, dense: dict[str, Tensor], thin: ThinLayer) -> tuple[Value, ...]:
    """Return the values of a layer's slots when only `thin.kept` is left.

    Args:
        denoiser: Gives the modules that a replaced forward is bound to.
        layer: The layer.
        dense: The layer's dense parameters by path ("….to_q.weight").
        thin: Kept groups and, where the pruner compensates, the output projection.

    Raises:
        ArtifactError: the thin layer does not fit the dense one.
    """
    _check(layer, dense, thin)
    kept = thin.kept.to(next(iter(dense.values())).device) if dense else thin.kept
    columns = group_columns(kept, layer.group_size)
    rows = torch.cat([columns + half * layer.num_groups * layer.group_size for half in range(layer.halves)])
    values: list[Value] = []
    for path in layer.inputs:
        values += [_thin(dense[name][rows], dense[name]) for name in _names(dense, path)] + [len(rows)]
    if layer.output:
        values += [*_output_values(dense, layer.output, columns, thin), len(columns)]
    values += [item.per_group * len(kept) for item in layer.attributes]
    if layer.absent is not None:
        values.append(MethodType(layer.absent, denoiser.get_submodule(layer.name)) if len(kept) == 0 else None)
    return tuple(values)


def _check(layer: Layer, dense: dict[str, Tensor], thin: ThinLayer) -> None:
    """Refuse indices that would wrap or repeat, and shapes that only a forged file can have."""
    kept = thin.kept
    in_order = kept.ndim == 1 and kept.dtype == torch.int64 and bool((kept.diff() > 0).all())
    if not in_order or (len(kept) and not 0 <= int(kept[0]) <= int(kept[-1]) < layer.num_groups):
        raise ArtifactError(f"{layer.name}: the kept groups must ascend within 0…{layer.num_groups - 1}.")
    for part, tensor in (("weight", thin.weight), ("bias", thin.bias)):
        if tensor is not None:
            shape = list(dense[f"{layer.output}.{part}"].shape)
            wanted = shape if part == "bias" else [shape[0], len(kept) * layer.group_size]
            if list(tensor.shape) != wanted:
                raise ArtifactError(f"{layer.name}: the {part} has shape {list(tensor.shape)}, not {wanted}.")


def dense_parameters(denoiser: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """Return the layer's parameters by path, as they are now in the model."""
    paths = [*layer.inputs, *([layer.output] if layer.output else [])]
    linears = ((path, denoiser.get_submodule(path)) for path in paths)
    return {f"{path}.{name}": p for path, linear in linears for name, p in linear.named_parameters(recurse=False)}


def _parameters(denoiser: nn.Module, path: str) -> list[Slot]:
    linear = denoiser.get_submodule(path)
    return [Slot(linear, "parameter", name) for name, _ in linear.named_parameters(recurse=False)]


def _names(dense: dict[str, Tensor], path: str) -> list[str]:
    """The parameters of one linear, in the order of its slots."""
    return [name for name in dense if name.rpartition(".")[0] == path]


def _output_values(dense: dict[str, Tensor], path: str, columns: Tensor, thin: ThinLayer) -> list[Value]:
    weight = dense[f"{path}.weight"]
    values: list[Value] = [_thin(weight[:, columns] if thin.weight is None else thin.weight, weight)]
    if f"{path}.bias" in dense:
        values.append(None if thin.bias is None else _thin(thin.bias, dense[f"{path}.bias"]))
    return values


def _thin(tensor: Tensor, like: Tensor) -> nn.Parameter:
    """Wrap a tensor as the parameter that stands in for `like`."""
    return nn.Parameter(tensor.detach().to(like.device, like.dtype).contiguous(), requires_grad=False)
