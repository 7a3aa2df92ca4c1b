"""What a denoiser's weights take on the device in each memory mode, computed without cutting any."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diff_es.denoisers import spec_of
from diff_es.routing.arena import arena_room, arena_size
from diff_es.routing.residence import Mode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.bank import ThinSource
    from diff_es.denoisers import Layer
    from diff_es.schedule import PruningSchedule


def dense_bytes(denoiser: nn.Module) -> int:
    """Return the bytes of a denoiser's parameters as they are."""
    return sum(parameter.nbytes for parameter in denoiser.parameters())


def weight_bytes(denoiser: nn.Module, source: ThinSource, schedule: PruningSchedule) -> dict[Mode, int]:
    """Return the device memory that a denoiser's weights take in each mode."""
    layers = spec_of(denoiser).layers(denoiser, blocks=source.depth)
    pruned = [index for index in range(len(layers)) if any(row[index] for row in schedule.layer_levels)]
    thin, whole = [], []
    for stage, row in enumerate(schedule.layer_levels):
        kept = {i: source.kept(stage, layers[i], row[i]) if row[i] else None for i in pruned}
        sizes = {i: layer_bytes(denoiser, layers[i], groups) for i, groups in kept.items()}
        thin.append(sum(size for i, size in sizes.items() if row[i]))
        whole.append(sum(sizes.values()))
    dense = dense_bytes(denoiser)
    parked = sum(layer_bytes(denoiser, layers[i], None) for i in pruned)
    streamed = dense - parked + arena_size(whole, arena_room(dense, parked))
    return {"resident": dense + sum(thin), "stream": streamed, "gather": dense + max(thin)}


def layer_bytes(denoiser: nn.Module, layer: Layer, kept: Tensor | None) -> int:
    """Return the bytes of a layer's parameters when only some groups are kept (None: all of them).

    Biases of output projections count as if every level had its own. A dropped block has no weights of its own.
    """
    counts = [family.count for family in layer.families]
    left = counts if kept is None else [len(groups) for groups in layer.split(kept)]
    rows, columns = layer.lost([count - own for count, own in zip(counts, left, strict=True)])
    inputs = sum(_module_bytes(denoiser, path, 0, rows[path]) for path in layer.inputs)
    return inputs + sum(_module_bytes(denoiser, path, 1, columns[path]) for path in layer.outputs)


def _module_bytes(denoiser: nn.Module, path: str, dimension: int, gone: int) -> int:
    """Bytes of a module without some rows (dimension 0) or columns (1); a vector has no columns to lose."""
    total = 0
    for parameter in denoiser.get_submodule(path).parameters(recurse=False):
        shape = list(parameter.shape)
        if dimension < len(shape):
            shape[dimension] -= gone
        total += math.prod(shape) * parameter.element_size()
    return total
