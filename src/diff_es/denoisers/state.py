"""States in which a denoiser cannot be pruned or routed though its class is supported, each with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.denoisers.accelerators import check_group, hooks_of
from diff_es.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn


def check_state(denoiser: nn.Module) -> None:
    """Check that the denoiser's own weights are what its attention modules use, and that nobody else moves them.

    Raises:
        UnsupportedModelError: q, k and v are fused, an IP-Adapter is loaded, or groups of weights are offloaded by a
            stream or to disk.
    """
    for name, module in denoiser.named_modules():
        check_attention(name, module)
        for hook in hooks_of(module):
            check_group(hook)


def check_attention(name: str, module: nn.Module) -> None:
    """Check that a module, if it is one of attention, computes with its own q, k and v.

    Raises:
        UnsupportedModelError: they are fused, or an IP-Adapter is loaded.
    """
    _check_projections(name, module)
    _check_processor(name, module)


def _check_projections(name: str, module: nn.Module) -> None:
    if getattr(module, "fused_projections", False):
        raise UnsupportedModelError(
            f"{name} has fused q, k, v: call unfuse_qkv_projections() first, or load the pipeline again where that "
            "leaves the fused copies behind (U-Nets, PixArt, SD3, HunyuanDiT)."
        )


def _check_processor(name: str, module: nn.Module) -> None:
    """An IP-Adapter's keys and values have all heads, whatever is pruned."""
    kind = type(getattr(module, "processor", None)).__name__
    if "IPAdapter" in kind:
        raise UnsupportedModelError(
            f"{name} has an IP-Adapter ({kind}), whose projections know nothing of removed heads: call "
            "pipe.unload_ip_adapter() first."
        )
