"""Choose where the stages' weights live: the fastest memory mode that fits a limit, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import dense_denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.routing.residence import Mode
from diff_es.schedule import groups_removed

if TYPE_CHECKING:
    from torch import nn

    from diff_es.bank import ThinSource
    from diff_es.denoisers import Layer
    from diff_es.schedule import PruningSchedule

_GIB = 2**30


@dataclass(frozen=True)
class ModePlan:
    """What each memory mode takes, and which one to use.

    Attributes:
        mode: The fastest that fits.
        weight_bytes: For each mode, device memory for the denoiser's weights while it runs.
        limit: Device memory that they may take; None where nothing limits it.
        why: One sentence for people.
    """

    mode: Mode
    weight_bytes: Mapping[Mode, int]
    limit: int | None
    why: str


def choose_mode(pipe: Any, source: ThinSource, schedule: PruningSchedule, memory_limit: int | None = None) -> ModePlan:
    """Choose the fastest memory mode whose weights fit.

    A stage switch takes no time in "resident", none that is seen in "stream" unless a stage is shorter than the copy of
    its weights, and the time of cutting them in "gather".

    Args:
        pipe: The dense pipeline.
        source: The bank or artefact.
        schedule: What to run.
        memory_limit: Bytes of device memory for the denoiser's weights; activations come on top. By default what the
            device has free beside the dense weights if they are there, or as much as is wanted on a CPU.

    Raises:
        InputError: no mode fits; the message says what the smallest takes.
    """
    denoiser = dense_denoiser_of(pipe)
    device = next(denoiser.parameters()).device
    needed = weight_bytes(denoiser, source, schedule)
    limit = _free(device, _bytes(denoiser)) if memory_limit is None else memory_limit
    # On a CPU the device is the host, and there is nothing to stream from.
    modes: tuple[Mode, ...] = ("resident", "gather") if device.type == "cpu" else ("resident", "stream", "gather")
    fitting = [mode for mode in modes if limit is None or needed[mode] <= limit]
    if limit is not None and not fitting:
        least = min(modes, key=lambda mode: needed[mode])
        raise InputError(
            f"memory_limit={limit} bytes ({limit / _GIB:.2f} GiB): the weights take at least "
            f"{needed[least] / _GIB:.2f} GiB (mode {least!r}). Allow more, or offload the model "
            "(pipe.enable_model_cpu_offload())."
        )
    return ModePlan(fitting[0], needed, limit, _reason(fitting[0], modes, needed, limit))


def _reason(mode: Mode, modes: tuple[Mode, ...], needed: Mapping[Mode, int], limit: int | None) -> str:
    faster = [f"{other} would take {needed[other] / _GIB:.2f}" for other in modes[: modes.index(mode)]]
    because = f", {' and '.join(faster)}" if faster else ", and nothing is faster"
    of = "" if limit is None else f" of {limit / _GIB:.2f}"
    return f"{mode}: its weights take {needed[mode] / _GIB:.2f}{of} GiB{because}."


def _free(device: torch.device, own: int) -> int | None:
    """Device memory for the denoiser's weights: what is free, and what they occupy already; None for a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + own


def weight_bytes(denoiser: nn.Module, source: ThinSource, schedule: PruningSchedule) -> dict[Mode, int]:
    """Return the device memory that a denoiser's weights take in each mode, computed from shapes alone."""
    layers = spec_of(denoiser).layers(denoiser, blocks=source.depth)
    rows = schedule.layer_levels
    sizes = [_LayerSizes(denoiser, layer, source.num_levels) for layer in layers]
    dense = _bytes(denoiser)
    thin = [sum(own.thin(level) for own, level in zip(sizes, row, strict=True) if level) for row in rows]
    changed = [own for index, own in enumerate(sizes) if any(row[index] for row in rows)]
    whole = [sum(own.thin(row[index]) for index, own in enumerate(sizes) if own in changed) for row in rows]
    parked = sum(own.thin(0) for own in changed)
    blocks = max(whole[::-2], default=0) + max(whole[-2::-2], default=0)
    return {
        "resident": dense + sum(thin),
        "stream": dense - parked + blocks,
        "gather": dense + max(thin),
    }


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


class _LayerSizes:
    """Bytes of a layer's parameters at each level; biases of outputs count as if each level had its own."""

    def __init__(self, denoiser: nn.Module, layer: Layer, num_levels: int) -> None:
        self._denoiser = denoiser
        self._layer = layer
        self._num_levels = num_levels

    def thin(self, level: int) -> int:
        """Bytes at a level; 0 is the dense layer. A dropped block has no weights of its own in any."""
        rows = sum(self._share(path, level, side="rows") for path in self._layer.inputs)
        return rows + sum(self._share(path, level, side="columns") for path in self._layer.outputs)

    def _share(self, path: str, level: int, *, side: str) -> int:
        """Bytes of one module when a level's rows or columns are gone."""
        gone = sum(
            span.size * groups_removed(family.count, self._num_levels)[level]
            for family in self._layer.families
            for span in (family.rows if side == "rows" else family.columns)
            if span.path == path
        )
        total = 0
        for name, parameter in self._denoiser.get_submodule(path).named_parameters(recurse=False):
            if side == "rows":
                left = parameter.numel() // len(parameter) * (len(parameter) - gone)
            elif name == "weight":
                left = parameter.numel() // parameter.shape[1] * (parameter.shape[1] - gone)
            else:
                left = parameter.numel()
            total += left * parameter.element_size()
        return total
