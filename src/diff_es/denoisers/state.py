"""States in which a denoiser cannot be pruned or routed though its class is supported, each with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        _check_projections(name, module)
        _check_processor(name, module)
        _check_offload(module)


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


def _check_offload(module: nn.Module) -> None:
    """Group offloading by a stream or to disk keeps a list of the dense parameters, and would miss the thin ones."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    hook = registry.get_hook("group_offloading") if registry is not None else None
    if hook is None:
        return
    if hook.config.stream is not None or hook.config.offload_to_disk_path is not None:
        raise UnsupportedModelError(
            "The denoiser is offloaded in groups by a stream or to disk, which moves the dense weights only: use "
            "enable_group_offload() with use_stream=False and without offload_to_disk_path, or "
            "enable_model_cpu_offload()."
        )
