"""Count multiply-adds. One MAC is one multiplication and one addition: half of what the counter calls FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import nn


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


def _counted(module: nn.Module, call: Mapping[str, Any]) -> FlopCounterMode:
    counter = FlopCounterMode(display=False, custom_mapping=_attention_formulas())
    with torch.no_grad(), counter:
        module(**call)
    return counter


def _attention_formulas() -> dict[Any, Any]:
    """Formulas for the attention kernels that torch's counter leaves out; without them attention on a CPU is free."""
    aten = torch.ops.aten
    kernels = (aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_fused_attention_overrideable)
    return dict.fromkeys(kernels, _attention_flops)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    """FLOPs of Q Kᵀ and of scores · V, two per multiply-add; shapes are (batch, heads, tokens, head width)."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])
