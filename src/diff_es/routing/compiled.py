"""Compile a denoiser with the router outside the graph: one graph per stage, none compiled twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from diff_es.denoisers import STITCHED, check_plain_calls, check_uncompiled, denoiser_of, spec_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.registry import suggest
from diff_es.routing.cuda_graphs import CudaGraphs

if TYPE_CHECKING:
    from torch import nn

#: What torch.compile makes one graph of: the whole denoiser (fastest), each block (compiled sooner), or nothing.
Compiled: TypeAlias = Literal["denoiser", "blocks", "nothing"]

#: Graphs that torch keeps per compiled function; beyond that it runs without compiling, unnoticed. Each stage has its
#: own shapes, and each batch size.
_GRAPHS = 512
_STATE = "_diff_es_compiled"
#: Modes of torch.compile that record CUDA graphs themselves.
_OWN_GRAPHS = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class _Before:
    """What was there before: an instance's own forward, the blocks that were compiled; and the forward put in."""

    forward: Callable[..., Any] | None
    blocks: tuple[nn.Module, ...]
    compiled: Callable[..., Any]


def compile_(pipe: Any, what: Compiled = "denoiser", *, cuda_graphs: bool | None = None, **options: Any) -> None:
    """Compile the pipeline's denoiser, dense or routed, in place; `uncompile_` takes it back.

    The first pipeline call compiles (and records) every stage, which takes from seconds to minutes; later calls of the
    same batch size do not. Torch's limit on the number of graphs (`torch._dynamo.config.recompile_limit`) is raised
    for the whole process.

    Args:
        pipe: A diffusers pipeline, before or after `apply_`.
        what: "denoiser": one graph per stage, the fastest. "blocks": one graph per different block, compiled much
            sooner where blocks are alike. "nothing": CUDA graphs alone.
        cuda_graphs: Record each stage as a CUDA graph, so that the host's launches take no time; None means on a CUDA
            device. Not in mode "gather", whose weights have no fixed address. A model that is offloaded later on runs
            without them.
        options: What else torch.compile is given (`mode="max-autotune-no-cudagraphs"`, `backend=…`, `fullgraph=True`).

    Raises:
        InputError: no such `what`, CUDA graphs on another device, "nothing" without them, or a torch.compile mode that
            records CUDA graphs of its own inside of these.
        UnsupportedModelError: the denoiser is compiled already, is stitched, is offloaded (compile it first), or has a
            cache (First Block Cache, DeepCache: compile the forward yourself, before the cache).
    """
    denoiser = denoiser_of(pipe)
    _check(denoiser, what)
    device = next(denoiser.parameters()).device
    graphs = device.type == "cuda" if cuda_graphs is None else cuda_graphs
    if graphs and device.type != "cuda":
        raise InputError(f"cuda_graphs=True needs the denoiser on a CUDA device, and it is on {device}.")
    if what == "nothing" and not graphs:
        raise InputError(
            "what='nothing' leaves CUDA graphs alone, and without them nothing is left: use 'denoiser' or 'blocks'."
        )
    if graphs and options.get("mode") in _OWN_GRAPHS:
        raise InputError(
            f"mode={options['mode']!r} records CUDA graphs of its own: give mode='max-autotune-no-cudagraphs', or "
            "cuda_graphs=False."
        )
    layers = spec_of(denoiser).blocks(denoiser) if what == "blocks" else ()
    blocks = tuple(denoiser.get_submodule(layer.name) for layer in layers)
    _allow_graphs()
    forward: Callable[..., Any] = denoiser.forward
    # Automatic dynamic shapes would make one slower graph out of those of two stages.
    settings = {"dynamic": False, **options}
    for block in blocks:
        block.compile(**settings)
    if what == "denoiser":
        forward = torch.compile(forward, **settings)
    if graphs:
        forward = CudaGraphs(denoiser, forward)
    vars(denoiser)[_STATE] = _Before(vars(denoiser).get("forward"), blocks, forward)
    vars(denoiser)["forward"] = forward


def uncompile_(pipe: Any) -> None:
    """Take `compile_` back: the denoiser's forward is what it was before.

    Raises:
        UnsupportedModelError: `compile_` was not called, or something else was put around the forward after it.
    """
    denoiser = denoiser_of(pipe)
    before: _Before | None = vars(denoiser).get(_STATE)
    if before is None:
        raise UnsupportedModelError("compile_(pipe) was not called; there is nothing to take back.")
    if vars(denoiser).get("forward") is not before.compiled:
        raise UnsupportedModelError(
            "The denoiser's forward is another than compile_(pipe) put there: take back first what came after it "
            "(pipe.remove_all_hooks() for offload, helper.disable() for DeepCache)."
        )
    del vars(denoiser)[_STATE], vars(denoiser)["forward"]
    if before.forward is not None:
        vars(denoiser)["forward"] = before.forward
    for block in before.blocks:
        block._compiled_call_impl = None


@contextmanager
def compiled(pipe: Any, what: Compiled = "denoiser", **options: Any) -> Iterator[None]:
    """Run the pipeline compiled within a block; see `compile_`."""
    compile_(pipe, what, **options)
    try:
        yield
    finally:
        uncompile_(pipe)


def _check(denoiser: nn.Module, what: Compiled) -> None:
    if what not in ("denoiser", "blocks", "nothing"):
        raise InputError(f"what={what!r}: {suggest(what, ('denoiser', 'blocks', 'nothing'))}")
    if _STATE in vars(denoiser):
        raise UnsupportedModelError("The denoiser is compiled already: call uncompile_(pipe) first.")
    if STITCHED in vars(denoiser):
        raise UnsupportedModelError(
            "The denoiser is stitched: its stages are models of their own, which one recording cannot tell apart. "
            "Compile the routed model."
        )
    check_uncompiled(denoiser, "compile_")
    if hasattr(denoiser, "_hf_hook"):
        raise UnsupportedModelError(
            "The denoiser is offloaded, and would be as it was before compile_ after its first run: call "
            "pipe.remove_all_hooks(), then compile_(pipe), then offload again."
        )
    check_plain_calls(denoiser, "compile_")


def _allow_graphs() -> None:
    """Have torch keep the graphs of all stages (read only here: the module is large)."""
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _GRAPHS)
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, 4 * _GRAPHS)
