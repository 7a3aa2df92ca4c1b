"""Denoiser calls as values: keyword arguments of one forward, which may hold tensors in dictionaries and lists."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diff_es.denoisers.spec import DenoiserSpec

#: Keyword arguments of one denoiser call.
Call: TypeAlias = dict[str, Any]


def named_call(denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Return a call by the names of its arguments, of which the first may have been given by position."""
    return {**dict(zip(_argument_names(type(denoiser).forward), args, strict=False)), **kwargs}


@cache
def _argument_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments of a class's forward, in order, without self."""
    return tuple(inspect.signature(forward).parameters)[1:]


def each_tensor(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a call, or a part of one, with every tensor in it replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: each_tensor(part, function) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each_tensor(part, function) for part in value)
    return value


def on_device(call: Call, device: torch.device | str) -> Call:
    """Return a call with its tensors on a device."""
    moved: Call = each_tensor(call, lambda tensor: tensor.to(device))
    return moved


def num_rows(spec: DenoiserSpec, call: Call) -> int:
    """Return the number of samples in a call; both halves of a guided one count."""
    return len(call[spec.latents_argument])


def take_rows(spec: DenoiserSpec, call: Call, rows: Tensor) -> Call:
    """Return a call of some of its samples.

    Args:
        spec: Says which arguments hold one row per sample.
        call: The call.
        rows: Numbers of the samples, int64.
    """
    count = num_rows(spec, call)

    def taken(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows.to(value.device)] if value.ndim and len(value) == count else value
        if isinstance(value, dict):
            return {name: taken(part) for name, part in value.items()}
        if isinstance(value, list) and len(value) == count:
            return [value[row] for row in rows.tolist()]
        return value

    return {name: value if name in spec.unbatched else taken(value) for name, value in call.items()}


def output_of(result: Any) -> Tensor:
    """Return the prediction in what a denoiser's forward gives: a tuple, or a record with `sample`.

    A model that gives a list, one tensor per sample, has them stacked.
    """
    content = _content(result)
    return content if isinstance(content, Tensor) else torch.stack(content)


def copy_output(result: Any) -> Any:
    """Return a copy of what a denoiser's forward gives, in the same form: a tuple, or a record with `sample`."""
    copied = each_tensor(_content(result), lambda tensor: tensor.detach().clone())
    return (copied,) if isinstance(result, tuple) else type(result)(sample=copied)


def output_bytes(result: Any) -> int:
    """Return the size of what a denoiser's forward gives."""
    content = _content(result)
    tensors = [content] if isinstance(content, Tensor) else content
    return sum(tensor.nbytes for tensor in tensors)


def _content(result: Any) -> Tensor | list[Tensor]:
    """The prediction as it is: a tensor, or a list of one tensor per sample."""
    content: Tensor | list[Tensor] = result[0] if isinstance(result, tuple) else result.sample
    return content
