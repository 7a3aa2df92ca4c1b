"""Choose where the stages' weights live: the fastest memory mode that fits a limit, with the reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import dense_denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.routing.arena import arena_room, arena_size
from diff_es.routing.residence import Mode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.bank import ThinSource
    from diff_es.denoisers import Layer
    from diff_es.schedule import PruningSchedule

_GIB = 2**30
#: Share of the free memory that weights may take where no limit is given: activations and the autoencoder want some.
_FOR_WEIGHTS = 0.8


@dataclass(frozen=True)
class ModePlan:
    """What each memory mode takes, and which one to use.

    Attributes:
        mode: The fastest that fits.
        weight_bytes: For each mode, device memory for the denoiser's weights while it runs.
        limit: Device memory that there is for them, and for activations where it was not given; None where nothing
            limits it.
        why: One sentence for people.
    """

    mode: Mode
    weight_bytes: Mapping[Mode, int]
    limit: int | None
    why: str


def choose_mode(pipe: Any, source: ThinSource, schedule: PruningSchedule, memory_limit: int | None = None) -> ModePlan:
    """Choose the fastest memory mode whose weights fit.

    A stage switch takes no time in "resident", and the time of cutting the weights in "gather". In "stream" it takes
    none that is seen, unless a stage is shorter than the copy of the next one's weights, or the two together would take
    more than a tenth beyond the dense model: what is more is copied at the switch.

    Args:
        pipe: The dense pipeline.
        source: The bank or artefact.
        schedule: What to run.
        memory_limit: Bytes of device memory for the denoiser's weights; activations come on top. By default four
            fifths of what is free or the denoiser's already, so that activations have room (or the smallest mode, where
            none fits into that); as much as is wanted on a CPU. The device is the one that the denoiser runs on, also
            where it is offloaded meanwhile.

    Raises:
        InputError: no mode fits; the message says what the smallest takes.
    """
    denoiser = dense_denoiser_of(pipe)
    device = _runs_on(denoiser)
    needed = weight_bytes(denoiser, source, schedule)
    limit = _free(denoiser, device) if memory_limit is None else memory_limit
    share = 1.0 if memory_limit is not None else _FOR_WEIGHTS
    # On a CPU the device is the host, and there is nothing to stream from.
    modes: tuple[Mode, ...] = ("resident", "gather") if device.type == "cpu" else ("resident", "stream", "gather")
    least = min(modes, key=lambda mode: needed[mode])
    if limit is not None and needed[least] > limit:
        what = f"memory_limit={limit}" if memory_limit is not None else f"{device} has free {limit}"
        raise InputError(
            f"{what} bytes ({limit / _GIB:.2f} GiB): the weights take at least {needed[least] / _GIB:.2f} GiB (mode "
            f"{least!r}). Allow or free more, or offload the model (pipe.enable_model_cpu_offload())."
        )
    mode = next((mode for mode in modes if limit is None or needed[mode] <= share * limit), least)
    return ModePlan(mode, needed, limit, _reason(mode, modes, needed, limit))


def _reason(mode: Mode, modes: tuple[Mode, ...], needed: Mapping[Mode, int], limit: int | None) -> str:
    faster = [f"{other} would take {needed[other] / _GIB:.2f}" for other in modes[: modes.index(mode)]]
    because = f", {' and '.join(faster)}" if faster else ", and nothing is faster"
    of = "" if limit is None else f" of {limit / _GIB:.2f}"
    return f"{mode}: its weights take {needed[mode] / _GIB:.2f}{of} GiB{because}."


def _runs_on(denoiser: nn.Module) -> torch.device:
    """The device of the denoiser's calls: that of accelerate's offload where its weights only visit it."""
    device = getattr(getattr(denoiser, "_hf_hook", None), "execution_device", None)
    return next(denoiser.parameters()).device if device is None else torch.device(device)


def _free(denoiser: nn.Module, device: torch.device) -> int | None:
    """Device memory that is free, or the denoiser's already; None for a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    occupied = _dense_bytes(denoiser) if next(denoiser.parameters()).device == device else 0
    return int(free) + unused + occupied


def _dense_bytes(denoiser: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in denoiser.parameters())


def weight_bytes(denoiser: nn.Module, source: ThinSource, schedule: PruningSchedule) -> dict[Mode, int]:
    """Return the device memory that a denoiser's weights take in each mode, computed without cutting any."""
    layers = spec_of(denoiser).layers(denoiser, blocks=source.depth)
    pruned = [index for index in range(len(layers)) if any(row[index] for row in schedule.layer_levels)]
    thin, whole = [], []
    for stage, row in enumerate(schedule.layer_levels):
        kept = {i: source.kept(stage, layers[i], row[i]) if row[i] else None for i in pruned}
        sizes = {i: layer_bytes(denoiser, layers[i], groups) for i, groups in kept.items()}
        thin.append(sum(size for i, size in sizes.items() if row[i]))
        whole.append(sum(sizes.values()))
    dense = _dense_bytes(denoiser)
    parked = sum(layer_bytes(denoiser, layers[i], None) for i in pruned)
    streamed = dense - parked + arena_size(whole, arena_room(dense, parked))
    return {"resident": dense + sum(thin), "stream": streamed, "gather": dense + max(thin)}


def layer_bytes(denoiser: nn.Module, layer: Layer, kept: Tensor | None) -> int:
    """Return the bytes of a layer's parameters when only some groups are kept (None: all of them).

    Biases of output projections count as if every level had its own. A dropped block has no weights of its own.
    """
    split = layer.split(kept) if kept is not None else None
    gone = [own.count - len(split[i]) if split is not None else 0 for i, own in enumerate(layer.families)]
    rows, columns = Counter[str](), Counter[str]()
    for own, count in zip(layer.families, gone, strict=True):
        for lost, spans in ((rows, own.rows), (columns, own.columns)):
            for span in spans:
                lost[span.path] += span.size * count
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
