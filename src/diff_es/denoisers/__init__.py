"""WHAT is prunable: one file per architecture, found by the class of the denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.denoisers import (
    dit,
    flux,
    flux2,
    hunyuan_dit,
    lumina2,
    pixart,
    qwen_image,
    sana,
    sd3,
    unet,
    wan,
    z_image,
)
from diff_es.denoisers.accelerators import check_plain_calls as check_plain_calls
from diff_es.denoisers.accelerators import check_uncompiled as check_uncompiled
from diff_es.denoisers.calls import Call as Call
from diff_es.denoisers.calls import copy_output as copy_output
from diff_es.denoisers.calls import each_tensor as each_tensor
from diff_es.denoisers.calls import named_call as named_call
from diff_es.denoisers.calls import num_rows as num_rows
from diff_es.denoisers.calls import on_device as on_device
from diff_es.denoisers.calls import output_bytes as output_bytes
from diff_es.denoisers.calls import output_of as output_of
from diff_es.denoisers.calls import take_rows as take_rows
from diff_es.denoisers.fingerprint import Fingerprint as Fingerprint
from diff_es.denoisers.fingerprint import fingerprint as fingerprint
from diff_es.denoisers.layers import GroupFamily as GroupFamily
from diff_es.denoisers.layers import Layer as Layer
from diff_es.denoisers.macs import count_macs as count_macs
from diff_es.denoisers.macs import macs_by_module as macs_by_module
from diff_es.denoisers.macs import own_macs as own_macs
from diff_es.denoisers.plain import check_loaded, plain_module
from diff_es.denoisers.spec import DenoiserSpec as DenoiserSpec
from diff_es.denoisers.state import check_state
from diff_es.errors import UnsupportedModelError
from diff_es.registry import Registry, suggest

if TYPE_CHECKING:
    from torch import nn

#: Where a routed denoiser keeps its router.
ROUTER = "_diff_es_router"
#: Where a stitched denoiser keeps its stages.
STITCHED = "_diff_es_stitched_plan"

#: Where Wan 2.2 keeps its expert for low noise; `transformer` is then the one for high noise.
_SECOND = "transformer_2"

specs: Registry[DenoiserSpec] = Registry("denoiser")
for _family in (dit, unet, pixart, hunyuan_dit, sd3, flux, flux2, qwen_image, sana, lumina2, z_image, wan):
    specs.register(_family.SPEC.architecture, _family.SPEC)


def denoiser_of(pipe: Any) -> nn.Module:
    """Return the denoiser of a diffusers pipeline, in whatever state it is.

    Raises:
        UnsupportedModelError: the pipeline has none, two, one without a spec, or one that torch.compile wraps.
    """
    name, denoiser = any_denoiser_of(pipe)
    if getattr(pipe, _SECOND, None) is not None:
        raise UnsupportedModelError(
            f"{type(pipe).__name__} has a second denoiser, {_SECOND}, which would stay dense: use a model with one "
            "(Wan 2.1, or the 5B model of Wan 2.2). To have the first make all steps, which it may not be trained for, "
            f"set pipe.{_SECOND} = None and call pipe.register_to_config(boundary_ratio=None)."
        )
    if hasattr(denoiser, "_orig_mod"):
        raise UnsupportedModelError(
            f"pipe.{name} is wrapped by torch.compile, and what is routed inside would not be seen: set "
            f"pipe.{name} = pipe.{name}._orig_mod, and compile its forward once it is routed, as in "
            f"pipe.{name}.forward = torch.compile(pipe.{name}.forward)."
        )
    spec_of(denoiser)
    return denoiser


def any_denoiser_of(pipe: Any) -> tuple[str, nn.Module]:
    """Return the name and the module of a pipeline's denoiser, also of one that cannot be pruned.

    Raises:
        UnsupportedModelError: the pipeline has none.
    """
    for name in ("transformer", "unet"):
        denoiser: nn.Module | None = getattr(pipe, name, None)
        if denoiser is not None:
            return name, denoiser
    raise UnsupportedModelError(f"{type(pipe).__name__} has no denoiser: neither `transformer` nor `unet`.")


def spec_of(denoiser: nn.Module) -> DenoiserSpec:
    """Return the spec of a denoiser.

    Raises:
        UnsupportedModelError: no spec for its class; the message says how to add one.
    """
    name = type(denoiser).__name__
    if name not in specs:
        raise UnsupportedModelError(
            f"The denoiser {name} is not supported: {suggest(name, specs)} "
            "To add it, register a DenoiserSpec in diff_es.denoisers.specs."
        )
    return specs[name]


def dense_denoiser_of(pipe: Any) -> nn.Module:
    """Return the denoiser of a pipeline, having checked that its layers are the plain ones that its spec describes.

    Raises:
        UnsupportedModelError: no supported denoiser, or one that is routed, stitched, fused, quantised, LoRA-wrapped,
            with an IP-Adapter, or whose weights are not in memory or moved in groups by a stream.
    """
    denoiser = denoiser_of(pipe)
    if ROUTER in vars(denoiser):
        raise UnsupportedModelError("The denoiser is routed: call diff_es.remove_(pipe) first.")
    if STITCHED in vars(denoiser):
        raise UnsupportedModelError("The denoiser is stitched already: load the pipeline again.")
    check_state(denoiser)
    for layer in spec_of(denoiser).width_layers(denoiser):
        for path in (*layer.inputs, *layer.outputs):
            plain_module(denoiser, path)
            check_loaded(denoiser, path)
    return denoiser
