"""Where a layer's weights sit in the model, and what goes there when only some groups are kept.

diffusers' forward stays untouched: a pruned layer is the same modules with thinner parameters and a few integers
(`heads`, …) to match. A *slot* is one such place; a layer's *values* are what fills its slots, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from diff_es.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.bank import ThinLayer
    from diff_es.denoisers import Layer

#: A parameter, an integer or shape, a bound forward, or None for "as in the dense model".
Value: TypeAlias = nn.Parameter | int | tuple[int] | Callable[..., Any] | None


@dataclass(frozen=True)
class Slot:
    """One place in a module: a parameter, an attribute, or the instance's forward."""

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
    """Return the slots of a layer: input modules, output linears, attributes, forwards."""
    slots = []
    for path in layer.inputs:
        slots += [*_parameters(denoiser, path), *_size(denoiser, path, "out")]
    for path in layer.outputs:
        slots += [*_parameters(denoiser, path), *_size(denoiser, path, "in")]
    for family in layer.families:
        slots += [Slot(denoiser.get_submodule(item.module), "attribute", item.name) for item in family.attributes]
        if family.absent is not None:
            slots.append(Slot(denoiser.get_submodule(family.absent.module), "forward", "forward"))
    return tuple(slots)


def layer_values(denoiser: nn.Module, layer: Layer, dense: dict[str, Tensor], thin: ThinLayer) -> tuple[Value, ...]:
    """Return the values of a layer's slots when only `thin.kept` is left.

    Args:
        denoiser: Gives the modules that a replaced forward is bound to.
        layer: The layer.
        dense: The layer's dense parameters by path ("….to_q.weight").
        thin: Kept groups and, where the pruner compensates, the output projections.

    Raises:
        ArtifactError: the thin layer does not fit the dense one.
    """
    _check_kept(layer, thin.kept)
    kept = thin.kept.to(next(iter(dense.values())).device) if dense else thin.kept
    values: list[Value] = []
    for path in layer.inputs:
        names = _names(dense, path)
        rows = layer.kept_rows(path, kept, len(dense[names[0]]))
        values += [_thin(dense[name][rows], dense[name]) for name in names]
        values += [len(rows)] * len(_size(denoiser, path, "out"))
    for path in layer.outputs:
        columns = layer.kept_columns(path, kept, dense[f"{path}.weight"].shape[1])
        values += [*_output_values(dense, path, columns, thin), *[len(columns)] * len(_size(denoiser, path, "in"))]
    for family, own in zip(layer.families, layer.split(kept), strict=True):
        values += [item.value(len(own)) for item in family.attributes]
        if family.absent is not None:
            module = denoiser.get_submodule(family.absent.module)
            values.append(MethodType(family.absent.forward, module) if len(own) == 0 else None)
    return tuple(values)


def _check_kept(layer: Layer, kept: Tensor) -> None:
    """Refuse indices that would wrap or repeat; only a forged file can have them."""
    in_order = kept.ndim == 1 and kept.dtype == torch.int64 and bool((kept.diff() > 0).all())
    if not in_order or (len(kept) and not 0 <= int(kept[0]) <= int(kept[-1]) < layer.num_groups):
        raise ArtifactError(f"{layer.name}: the kept groups must ascend within 0…{layer.num_groups - 1}.")


def dense_parameters(denoiser: nn.Module, layer: Layer) -> dict[str, Tensor]:
    """Return the layer's parameters by path, as they are now in the model."""
    modules = ((path, denoiser.get_submodule(path)) for path in (*layer.inputs, *layer.outputs))
    return {f"{path}.{name}": p for path, module in modules for name, p in module.named_parameters(recurse=False)}


def _parameters(denoiser: nn.Module, path: str) -> list[Slot]:
    module = denoiser.get_submodule(path)
    return [Slot(module, "parameter", name) for name, _ in module.named_parameters(recurse=False)]


def _size(denoiser: nn.Module, path: str, side: Literal["in", "out"]) -> list[Slot]:
    """The attribute that says how wide a module is; a norm's is among the attributes of its layer."""
    module = denoiser.get_submodule(path)
    names = (f"{side}_features", f"{side}_channels")
    return [Slot(module, "attribute", name) for name in names if name in vars(module)]


def _names(dense: dict[str, Tensor], path: str) -> list[str]:
    """The parameters of one module, in the order of its slots."""
    return [name for name in dense if name.rpartition(".")[0] == path]


def _output_values(dense: dict[str, Tensor], path: str, columns: Tensor, thin: ThinLayer) -> list[Value]:
    """The weight of an output projection, and its bias where it has one (None: as in the dense model)."""
    values: list[Value] = []
    for name in _names(dense, path):
        solved, whole = thin.outputs.get(name), dense[name]
        if name.endswith(".weight"):
            wanted = (whole.shape[0], len(columns), *whole.shape[2:])
            values.append(_thin(whole[:, columns] if solved is None else _fitting(solved, wanted, name), whole))
        else:
            values.append(None if solved is None else _thin(_fitting(solved, whole.shape, name), whole))
    return values


def _fitting(tensor: Tensor, shape: Sequence[int], name: str) -> Tensor:
    if tuple(tensor.shape) != tuple(shape):
        raise ArtifactError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}.")
    return tensor


def _thin(tensor: Tensor, like: Tensor) -> nn.Parameter:
    """Wrap a tensor as the parameter that stands in for `like`."""
    return nn.Parameter(tensor.detach().to(like.device, like.dtype).contiguous(), requires_grad=False)
