"""Count what one denoiser call uses: multiply-adds and parameters.

One MAC is one multiplication and one addition: half of what the counter calls FLOPs. Shapes are enough for it, so a
model on the meta device, which holds no weights, is counted like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from types import TracebackType


def count_macs(module: nn.Module, call: Mapping[str, Any]) -> int:
    """Run one call of the module and count the multiply-adds of its matrix products, convolutions and attention.

    Element-wise work (norms, activations, softmax, biases) is not counted, as usual. The call is counted as it is: for
    all samples of its batch, and both halves of a guided batch. What a router has sliced away is not counted, because
    the operations that really run are.

    Args:
        module: The denoiser, dense or routed.
        call: The keyword arguments of one call (for a DiT: hidden_states, timestep, class_labels).

    Returns:
        MACs of this one call.
    """
    return _counted(module, call).get_total_flops() // 2


def macs_by_module(module: nn.Module, call: Mapping[str, Any]) -> dict[str, int]:
    """Count the multiply-adds of one call by submodule path; a parent's count holds those of its children.

    Args:
        module: The denoiser.
        call: The keyword arguments of one call.
    """
    counts = _counted(module, call).get_flop_counts()
    prefix = f"{type(module).__name__}."
    return {
        path.removeprefix(prefix): sum(operations.values()) // 2
        for path, operations in counts.items()
        if path.startswith(prefix)
    }


def own_macs(module: nn.Module, call: Mapping[str, Any]) -> dict[str, int]:
    """Count the multiply-adds of one call by the path of the submodule that makes them itself, not by a child.

    An attention's own ones are its scores and their product with the values. The counts add up to `count_macs`.

    Args:
        module: The denoiser.
        call: The keyword arguments of one call.
    """
    counter = flop_counter()
    ledger = _Ledger(counter)
    with torch.no_grad(), ExitStack() as hooks:
        for path, part in module.named_modules():
            hooks.callback(part.register_forward_pre_hook(partial(ledger.enter, path)).remove)
            hooks.callback(part.register_forward_hook(ledger.leave, always_call=True).remove)
        with counter:
            module(**call)
    return {path: flops // 2 for path, flops in ledger.flops.items() if flops}


class _Ledger:
    """Books what has been counted since the last change of module on the one that ran meanwhile."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.flops: Counter[str] = Counter()
        self._counter = counter
        self._running: list[str] = []
        self._booked = 0

    def enter(self, path: str, *_: Any) -> None:
        self._book()
        self._running.append(path)

    def leave(self, *_: Any) -> None:
        self._book()
        self._running.pop()

    def _book(self) -> None:
        total = self._counter.get_total_flops()
        if self._running:
            self.flops[self._running[-1]] += total - self._booked
        self._booked = total


def parameters_used(module: nn.Module, call: Mapping[str, Any]) -> tuple[nn.Parameter, ...]:
    """Run one call of the module and return the parameters that entered an operation, each once.

    What a router has sliced away and what belongs to dropped blocks is not among them; an embedding table counts whole.

    Args:
        module: The denoiser, dense or routed.
        call: The keyword arguments of one call.
    """
    with torch.no_grad(), ParameterRecorder() as recorder:
        module(**call)
    return tuple(recorder.seen.values())


class ParameterRecorder(TorchFunctionMode):
    """Keeps every parameter that is an argument of an operation.

    Attributes:
        seen: Identity of each parameter → the parameter; another dictionary may be put in its place at any time.
    """

    seen: dict[int, nn.Parameter]

    def __enter__(self) -> ParameterRecorder:
        self.seen = {}
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        # Reading an attribute (weight.dtype) comes here too, and uses nothing.
        if func.__name__ != "__get__":
            for value in _flat((*args, *named.values())):
                if isinstance(value, nn.Parameter):
                    self.seen[id(value)] = value
        return func(*args, **named)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _counted(module: nn.Module, call: Mapping[str, Any]) -> FlopCounterMode:
    with torch.no_grad(), flop_counter() as counter:
        module(**call)
    return counter  # type: ignore[no-any-return]


def flop_counter() -> FlopCounterMode:
    """Return torch's counter, extended by the attention kernels that it does not know; a MAC is two of its FLOPs."""
    return FlopCounterMode(display=False, custom_mapping=_attention_formulas())


def _attention_formulas() -> dict[Any, Any]:
    """Formulas for the attention kernels that torch's counter leaves out; without them attention on a CPU is free."""
    aten = torch.ops.aten
    kernels = (aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_fused_attention_overrideable)
    return dict.fromkeys(kernels, _attention_flops)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    """FLOPs of Q Kᵀ and of scores · V, two per multiply-add; shapes are (batch, heads, tokens, head width)."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])
