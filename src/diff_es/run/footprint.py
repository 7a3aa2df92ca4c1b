"""How many bytes calibration, bank and artefact take, and which memory the Hessians need: from shapes alone.

Weights are not looked at, so a denoiser on the meta device, of whatever size, is measured like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.calibration.passes import stored_bytes
from diff_es.calibration.statistics import bytes_needed
from diff_es.pruning import pruners
from diff_es.pruning.sizes import BankSizes

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers import Layer

#: Bytes that the header of a safetensors file spends on one tensor, about.
ENTRY = 100


@dataclass(frozen=True)
class Footprint:
    """What pruning one denoiser takes.

    Attributes:
        calibration_bytes: Statistics of all stages, on disk.
        bank_bytes: The bank, on disk.
        artefact_bytes: The artefact, on disk, of a schedule without any pruning; a schedule at 50 % takes half.
        hessian_bytes: Device memory for the second moments of all layers at once; with less, calibration takes several
            passes over its inputs.
        largest_hessian_bytes: The same of the largest layer, the least memory that calibration runs in.
    """

    calibration_bytes: int
    bank_bytes: int
    artefact_bytes: int
    hessian_bytes: int
    largest_hessian_bytes: int


def footprint(  # noqa: PLR0913 (the settings of a run that sizes depend on)
    denoiser: nn.Module,
    layers: Sequence[Layer],
    *,
    method: str,
    num_levels: int,
    stages: int,
    shared: bool = False,
    intercept: bool = False,
) -> Footprint:
    """Add up the sizes of everything that is kept.

    Args:
        denoiser: The dense model, with or without weights.
        layers: Its layers, or its blocks for a pruner that drops blocks.
        method: Name of the pruner.
        num_levels: H.
        stages: Number of stages.
        shared: Whether all stages share one calibration.
        intercept: Whether the biases take part in the least squares.
    """
    pruner = pruners[method]
    sets = 1 if shared or pruner.one_set else stages
    sizes = BankSizes(denoiser, num_levels, pruner.compensates, intercept)
    statistics = [size for layer in layers for size in stored_bytes(denoiser, layer, pruner.needs)]
    # A bank of blocks is the order in which they leave, int64, and nothing else.
    bank = [8 * len(layers)] if pruner.depth else [size for layer in layers for size in sizes.trajectory(layer)]
    thin = [size for layer in layers for size in sizes.level(layer, 0)]
    moments = [bytes_needed(denoiser, layer) for layer in layers if pruner.compensates]
    return Footprint(
        sets * _stored(statistics), sets * _stored(bank), stages * _stored(thin), sum(moments), max(moments, default=0)
    )


def _stored(tensors: Sequence[int]) -> int:
    return sum(tensors) + ENTRY * len(tensors)
