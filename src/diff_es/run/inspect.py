"""What is prunable in a pipeline: groups, parameters and MACs by kind of layer; what is left alone, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diff_es.calibration import first_step
from diff_es.denoisers import count_macs, dense_denoiser_of, macs_by_module, on_device, spec_of
from diff_es.sampling import SamplerConfig, any_requests

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers import Layer


@dataclass(frozen=True)
class Part:
    """One part of a denoiser.

    Attributes:
        name: Kind of layer, or the part's name.
        layers: Number of layers; 0 for parts that are left alone.
        groups: The different numbers of groups that its layers have.
        parameters: Number of parameters.
        macs: MACs of one call on one sample.
        reason: Why it is left alone; empty where it is prunable.
    """

    name: str
    layers: int
    groups: tuple[int, ...]
    parameters: int
    macs: int
    reason: str = ""


@dataclass(frozen=True)
class Inspection:
    """What is prunable in a denoiser.

    Attributes:
        architecture: Its class.
        parameters: All parameters.
        macs: All MACs of one call on one sample, no guidance.
        parts: Prunable kinds first, then what is left alone.
    """

    architecture: str
    parameters: int
    macs: int
    parts: tuple[Part, ...]


def inspect_model(pipe: Any) -> Inspection:
    """Look at a dense pipeline's denoiser; one call on one sample is counted.

    Raises:
        UnsupportedModelError: no spec for the denoiser, or a state that cannot be pruned.
    """
    denoiser = dense_denoiser_of(pipe)
    spec = spec_of(denoiser)
    device = next(denoiser.parameters()).device
    # Of two steps the second is never taken; a single one would be sampled to the end, which PixArt's sampler cannot.
    call = on_device(first_step(pipe, any_requests(pipe, 1), SamplerConfig(2, guidance_scale=1.0))[0], device)
    macs = macs_by_module(denoiser, call)
    layers = spec.width_layers(denoiser)
    kinds = dict.fromkeys(layer.kind for layer in layers)
    prunable = [_prunable(denoiser, kind, [layer for layer in layers if layer.kind == kind], macs) for kind in kinds]
    alone = [_left_alone(denoiser, name, reason, macs) for name, reason in spec.left_alone]
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    return Inspection(spec.architecture, total, count_macs(denoiser, call), (*prunable, *alone))


def _prunable(denoiser: nn.Module, kind: str, layers: list[Layer], macs: dict[str, int]) -> Part:
    parameters = sum(p.numel() for layer in layers for p in denoiser.get_submodule(layer.name).parameters())
    groups = tuple(sorted({layer.num_groups for layer in layers}))
    return Part(kind, len(layers), groups, parameters, sum(macs.get(layer.name, 0) for layer in layers))


def _left_alone(denoiser: nn.Module, name: str, reason: str, macs: dict[str, int]) -> Part:
    """Sum what lies below every module whose own name starts with `name`."""
    roots = [path for path, _ in denoiser.named_modules() if path.rpartition(".")[2].startswith(name)]
    parameters = sum(p.numel() for path in roots for p in denoiser.get_submodule(path).parameters())
    # Counted by leaves: a model may call a child without the part (DiT's last layer uses the first block's embedder).
    leaves = {path for root in roots for path in _leaves(denoiser, root)}
    return Part(name, 0, (), parameters, sum(macs.get(path, 0) for path in leaves), reason)


def _leaves(denoiser: nn.Module, root: str) -> list[str]:
    modules = denoiser.get_submodule(root).named_modules(prefix=root)
    return [path for path, module in modules if not any(True for _ in module.children())]
