"""What users put on a denoiser to make it faster: caches of its features, compiled forwards.

Statistics, fitness values and layer errors must be those of the denoiser itself. A cache leaves out calls of its
layers, and what it left out depends on the calls before; a compiled forward is compiled again for every new shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from diff_es.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn


def hooks_of(module: nn.Module) -> Iterable[Any]:
    """Return the hooks that diffusers has on a module."""
    registry = vars(module).get("_diffusers_hook")
    return () if registry is None else registry.hooks.values()


def stateful_hooks(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, Any]]:
    """Yield the hooks of diffusers that remember something from call to call, each with its module."""
    for module in modules:
        yield from ((module, hook) for hook in hooks_of(module) if hook._is_stateful)


def group_of(hook: Any) -> Any:
    """Return the group of modules that a hook moves to the device and back; None for any other hook."""
    return getattr(hook, "group", None)


def check_group(hook: Any) -> None:
    """Check that a hook, if it offloads a group of modules, asks them for their weights anew each time.

    Raises:
        UnsupportedModelError: it fills a stream or a disk from a list of the parameters that were there at first.
    """
    if group_of(hook) is None or (hook.config.stream is None and hook.config.offload_to_disk_path is None):
        return
    way = "use_stream=True" if hook.config.stream is not None else "offload_to_disk_path"
    raise UnsupportedModelError(
        f"The denoiser is offloaded in groups with {way}, which knows only the weights that were there at first, and "
        "those of a routed one change from stage to stage: call enable_group_offload without it, or "
        "pipe.enable_model_cpu_offload()."
    )


def cache_of(denoiser: nn.Module) -> str | None:
    """Return what to call the cache on a denoiser, or None where there is none."""
    if str(getattr(vars(denoiser).get("forward"), "__module__", "")).startswith("DeepCache."):
        return "DeepCache"
    return next((type(hook).__name__.removesuffix("Hook") for _, hook in stateful_hooks(denoiser.modules())), None)


def has_compiled_forward(denoiser: nn.Module) -> bool:
    """Whether `denoiser.forward = torch.compile(denoiser.forward)` was done."""
    return hasattr(vars(denoiser).get("forward"), "_torchdynamo_orig_callable")


def has_graphs(denoiser: nn.Module) -> bool:
    """Whether the denoiser's calls are recorded as CUDA graphs, by `compile_`."""
    return hasattr(vars(denoiser).get("forward"), "records_graphs")


def check_plain_calls(denoiser: nn.Module, what: str) -> None:
    """Check that every call of the denoiser computes everything.

    Args:
        denoiser: The dense model.
        what: What it is called for, to be named in the error.

    Raises:
        UnsupportedModelError: a cache is enabled.
    """
    cache = cache_of(denoiser)
    if cache is not None:
        raise UnsupportedModelError(
            f"{what} needs every call of the denoiser in full, but {cache} is enabled on it: disable the cache "
            "(transformer.disable_cache(), or helper.disable() of DeepCache) and enable it again on the routed model."
        )


def check_uncompiled(denoiser: nn.Module, what: str) -> None:
    """Check that no part of the denoiser is compiled.

    Raises:
        UnsupportedModelError: the denoiser, its forward or its blocks are compiled.
    """
    if (
        has_compiled_forward(denoiser)
        or has_graphs(denoiser)
        or any(part._compiled_call_impl is not None for part in denoiser.modules())
    ):
        raise UnsupportedModelError(
            f"{what} would compile the denoiser anew for the shapes of every schedule, which takes longer than the "
            "runs that it saves: do it with the plain model, and compile the routed one."
        )
