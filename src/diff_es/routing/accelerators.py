"""Other accelerators on a routed denoiser: what a cache remembers ends with its stage; what cannot work is refused.

Nothing here knows whether the accelerator or the router was there first: all of it is looked at when a stage begins.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers.accelerators import (
    check_group,
    group_of,
    has_compiled_forward,
    has_graphs,
    hooks_of,
    stateful_hooks,
)
from diff_es.denoisers.state import check_attention
from diff_es.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers import DenoiserSpec, Layer
    from diff_es.schedule import PruningSchedule

#: The one cache that may forget at any time: its next call computes everything, and nothing else changes.
_FORGETFUL = "FBCHeadBlockHook"


@dataclass(frozen=True)
class _Block:
    """A block, what shapes its dense parameters have, and the positions of the pruned layers that lie in it."""

    module: nn.Module
    shapes: tuple[torch.Size, ...]
    layers: tuple[int, ...]

    @classmethod
    def of(cls, denoiser: nn.Module, block: Layer, layers: tuple[Layer, ...]) -> _Block:
        module = denoiser.get_submodule(block.name)
        within = (i for i, layer in enumerate(layers) if f"{layer.name}.".startswith(f"{block.name}."))
        return cls(module, tuple(parameter.shape for parameter in module.parameters()), tuple(within))


class Accelerators:
    """What is on a denoiser besides the router."""

    def __init__(self, denoiser: nn.Module, spec: DenoiserSpec, layers: tuple[Layer, ...], *, depth: bool) -> None:
        """Note where to look; that is done once, and the looking at every stage.

        Args:
            denoiser: The model.
            spec: Its spec.
            layers: The layers that are pruned.
            depth: Whether they are whole blocks.
        """
        self._denoiser = denoiser
        self._depth = depth
        self._modules: tuple[nn.Module, ...] = tuple(denoiser.modules())
        self._attention = tuple((name, own) for name, own in denoiser.named_modules() if hasattr(own, "processor"))
        self._hooked = True
        self._offloaded_before = {module for module in self._modules if any(map(group_of, hooks_of(module)))}
        self._blocks = tuple(_Block.of(denoiser, block, layers) for block in spec.blocks(denoiser))

    def begin_stage_(self, schedule: PruningSchedule, *, first: bool) -> None:
        """Let diffusers' caches forget what they computed with the weights of the stage before.

        Args:
            schedule: What is run.
            first: Whether a denoising run begins. Only then are all modules asked for hooks, which takes longer than a
                stage switch.

        Raises:
            UnsupportedModelError: see `check`; the denoiser is compiled, and some stages would not be; or LoRA weights
                or an IP-Adapter were loaded into it, or q, k and v fused.
        """
        _check_adapters(self._denoiser)
        for name, module in self._attention:
            check_attention(name, module)
        self._check_compiled(schedule)
        if first:
            self._hooked = any("_diffusers_hook" in vars(module) for module in self._modules)
        if not self._hooked:
            return
        self.check()
        for module, hook in stateful_hooks(self._modules):
            context = hook.state_manager.context  # which of the calls of a step this is
            hook.reset_state(module)
            hook.state_manager.set_context(context)

    def check(self) -> None:
        """Check that it goes together with the router.

        Raises:
            UnsupportedModelError: a cache that cannot begin anew at a stage border, or any on dropped blocks; offload
                by groups that keeps its own list of the weights; `compile()` of the denoiser itself.
        """
        _check_whole(self._denoiser)
        for _, hook in stateful_hooks(self._modules):
            _check_cache(hook, depth=self._depth)
            self._check_graphs("a cache decides in each call what it computes")
        for module in self._modules:
            for hook in hooks_of(module):
                check_group(hook)
                self._check_order(module, hook)
                if group_of(hook) is not None:
                    self._check_graphs("offload by groups moves the weights in each call")

    def _check_graphs(self, why: str) -> None:
        """A recording would go on as it was before the accelerator came."""
        if has_graphs(self._denoiser):
            raise UnsupportedModelError(
                f"The denoiser's calls are recorded as CUDA graphs, and {why}: use compile_(pipe, cuda_graphs=False)."
            )

    def _check_order(self, module: nn.Module, hook: Any) -> None:
        """A block that is dropped gets back the forward that it had when it was routed, without a later hook."""
        if self._depth and group_of(hook) is not None and module not in self._offloaded_before:
            raise UnsupportedModelError(
                "Offload by groups was enabled on a routed denoiser whose stages drop blocks, and would lose them: "
                "call remove_(pipe), then enable_group_offload, then route."
            )

    def _check_compiled(self, schedule: PruningSchedule) -> None:
        """Each set of shapes is a graph of its own. Beyond its limit torch goes on without compiling, unnoticed."""
        _check_whole(self._denoiser)
        needed = len(set(schedule.layer_levels)) if has_compiled_forward(self._denoiser) else 0
        needed = max(needed, *self._graphs_of_blocks(schedule).values(), 0)
        # Read only where something is compiled: the module is large.
        if needed and needed > torch._dynamo.config.recompile_limit:
            raise UnsupportedModelError(
                f"The stages need {needed} compiled graphs, and torch keeps {torch._dynamo.config.recompile_limit}: "
                "the others would silently run without being compiled. Set torch._dynamo.config.recompile_limit = "
                f"{needed} before the first run."
            )

    def _graphs_of_blocks(self, schedule: PruningSchedule) -> dict[str, int]:
        """Graphs per class of compiled blocks: blocks of one class share their code, and so one limit."""
        shapes: dict[str, set[Hashable]] = {}
        for block in self._blocks:
            if block.module._compiled_call_impl is not None:
                found = shapes.setdefault(type(block.module).__name__, set())
                found |= {(block.shapes, tuple(row[index] for index in block.layers)) for row in schedule.layer_levels}
        return {name: len(found) for name, found in shapes.items()}


def _check_cache(hook: Any, *, depth: bool) -> None:
    name = type(hook).__name__
    if name != _FORGETFUL:
        raise UnsupportedModelError(
            f"A routed denoiser cannot have the cache of {name}: it counts steps from the start of the run and would "
            "carry features of one stage's weights into another's. Use FirstBlockCacheConfig, or "
            "transformer.disable_cache()."
        )
    if depth:
        raise UnsupportedModelError(
            "First Block Cache needs its first and its last block in every stage, and this schedule drops blocks: call "
            "transformer.disable_cache(), or use a schedule that prunes heads and channels."
        )


def _check_adapters(denoiser: nn.Module) -> None:
    """LoRA matrices have the shapes of the dense weights, which no stage has."""
    if getattr(denoiser, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            "LoRA weights were loaded into a routed denoiser, whose weights are narrower than they are. "
            "Call pipe.unload_lora_weights() to go on without them; to have them, prune the model that they are fused "
            "into: load the pipeline, load_lora_weights, fuse_lora, unload_lora_weights, then diff-es."
        )


def _check_whole(denoiser: nn.Module) -> None:
    """Torch does not look for hooks that were registered after it compiled a module."""
    if denoiser._compiled_call_impl is not None:
        raise UnsupportedModelError(
            "denoiser.compile() puts the router into the graph: load the pipeline again and compile the forward alone, "
            "as in pipe.transformer.forward = torch.compile(pipe.transformer.forward)."
        )
