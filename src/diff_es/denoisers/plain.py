"""Checks that the modules of a layer are the plain ones that its spec describes."""

from __future__ import annotations

from torch import nn

from diff_es.errors import UnsupportedModelError

#: Modules whose rows or columns can be sliced; norms are told by their weight of one dimension.
_SLICEABLE = (nn.Linear, nn.Conv2d)


def plain_module(denoiser: nn.Module, path: str) -> nn.Module:
    """Return the module at `path`, having checked that it can be sliced.

    Raises:
        UnsupportedModelError: it is LoRA-wrapped, quantised or parametrised.
    """
    module = denoiser.get_submodule(path)
    kind = type(module)
    weight = getattr(module, "weight", None)
    if kind not in _SLICEABLE and (weight is None or weight.ndim != 1):
        raise UnsupportedModelError(
            f"{path} is a {kind.__module__}.{kind.__name__}, not a plain linear: fuse LoRA layers, and prune "
            "before quantising."
        )
    if type(weight) is not nn.Parameter:
        raise UnsupportedModelError(f"The weight of {path} is a {type(weight).__name__}: prune, then quantise.")
    return module


def check_loaded(denoiser: nn.Module, path: str) -> None:
    """Check that the weights of the module at `path` are in memory.

    Raises:
        UnsupportedModelError: they are on the meta device.
    """
    if any(parameter.is_meta for parameter in denoiser.get_submodule(path).parameters(recurse=False)):
        raise UnsupportedModelError(
            f"{path} has no weights in memory (sequential offload?): load the pipeline plainly, or use "
            "enable_model_cpu_offload()."
        )
