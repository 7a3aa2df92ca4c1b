"""What is prunable in a denoiser: groups, parameters and MACs by kind of layer; what is left alone, and why.

Every parameter and every multiply-add belongs to exactly one part: a kind of prunable layer, else the first part of the
spec's `left_alone` that names it, else a part of its own, which the spec forgot. The parts add up to the whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diff_es.calibration import first_step
from diff_es.denoisers import dense_denoiser_of, on_device, own_macs, spec_of
from diff_es.sampling import SamplerConfig, any_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from diff_es.denoisers import Call, Layer

#: Why a part is left alone that no entry of the spec names.
UNNAMED = "not named in the denoiser's spec"


@dataclass(frozen=True)
class Part:
    """One part of a denoiser.

    Attributes:
        name: Kind of layer, or the part's name.
        layers: Number of layers; 0 for parts that are left alone.
        groups: The different numbers of heads or channels that its layers have.
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
    device = next(denoiser.parameters()).device
    # Of two steps the second is never taken; a single one would be sampled to the end, which PixArt's sampler cannot.
    call = first_step(pipe, any_requests(pipe, 1), SamplerConfig(2, guidance_scale=1.0))[0]
    return inspect_denoiser(denoiser, on_device(call, device))


def inspect_denoiser(denoiser: nn.Module, call: Call) -> Inspection:
    """Look at a dense denoiser; it may be on the meta device, without weights.

    Args:
        denoiser: The model.
        call: Keyword arguments of one forward on one sample, on the model's device.

    Raises:
        UnsupportedModelError: no spec for the denoiser, or layers that cannot be pruned.
    """
    layers = spec_of(denoiser).width_layers(denoiser)
    parts = _Parts(layers, spec_of(denoiser).left_alone)
    parameters, macs = Counter[str](), Counter[str]()
    for path, parameter in denoiser.named_parameters():
        parameters[parts.holding(path)] += parameter.numel()
    for path, count in own_macs(denoiser, call).items():
        macs[parts.holding(path)] += count
    found = {*parameters, *macs}
    ordered = [name for name in parts.named if name in found]
    ordered += sorted(found - set(ordered))
    return Inspection(
        type(denoiser).__name__,
        parameters.total(),
        macs.total(),
        tuple(_part(name, parts, parameters[name], macs[name]) for name in ordered),
    )


class _Parts:
    """Says to which part a parameter or a module belongs."""

    def __init__(self, layers: Sequence[Layer], left_alone: Sequence[tuple[str, str]]) -> None:
        self.layers = layers
        self.reasons = dict(left_alone)
        self.named = (*dict.fromkeys(layer.kind for layer in layers), *self.reasons)
        self._kinds: dict[str, str] = {root: layer.kind for layer in layers for root in _roots(layer)}

    def holding(self, path: str) -> str:
        """Return the part of a parameter or module by its path from the denoiser."""
        names = path.split(".")
        for length in range(1, len(names) + 1):
            kind = self._kinds.get(".".join(names[:length]))
            if kind is not None:
                return kind
        for part in self.reasons:
            if any(part in name for name in names):
                return part
        if names[-1] in ("weight", "bias"):
            names.pop()
        return ".".join("*" if name.isdecimal() else name for name in names) or "the denoiser's own forward"


def _roots(layer: Layer) -> set[str]:
    """Paths of the modules that a layer consists of. The block around a parallel layer is more than the layer."""
    own = set() if layer.kind == "parallel" else {layer.name}
    absent = {family.absent.module for family in layer.families if family.absent is not None}
    return own | absent | {*layer.inputs, *layer.outputs}


def _part(name: str, parts: _Parts, parameters: int, macs: int) -> Part:
    layers = [layer for layer in parts.layers if layer.kind == name]
    if layers:
        groups = sorted({family.count for layer in layers for family in layer.families})
        return Part(name, len(layers), tuple(groups), parameters, macs)
    return Part(name, 0, (), parameters, macs, parts.reasons.get(name, UNNAMED))
