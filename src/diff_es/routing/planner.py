"""Choose where the stages' weights live: the first memory mode that fits into the room there is, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import dense_denoiser_of
from diff_es.errors import InputError
from diff_es.routing.residence import Mode
from diff_es.routing.sizes import dense_bytes, weight_bytes

if TYPE_CHECKING:
    from torch import nn

    from diff_es.bank import ThinSource
    from diff_es.schedule import PruningSchedule

_GIB = 2**30
#: Share of the free memory that weights may take where no limit is given: activations and the autoencoder want some.
_FOR_WEIGHTS = 0.8
#: The same for a run, which wants more beside them: outputs kept for replay, thin layers kept for later candidates.
BESIDE_A_RUN = 0.75
#: The fastest first; "gather" comes last because it cuts weights at every stage switch.
FASTEST_FIRST: tuple[Mode, ...] = ("resident", "stream", "gather")


@dataclass(frozen=True)
class ModePlan:
    """What each memory mode takes, and which one to use.

    Attributes:
        mode: The first in the order of preference that fits.
        weight_bytes: For each mode, device memory for the denoiser's weights while it runs.
        limit: Device memory that there is for them, and for activations where it was not given; None where nothing
            limits it.
        why: One sentence for people.
    """

    mode: Mode
    weight_bytes: Mapping[Mode, int]
    limit: int | None
    why: str


@dataclass(frozen=True)
class Room:
    """Device memory that a denoiser's weights may take.

    Attributes:
        limit: Bytes that there are; None where nothing limits them.
        share: Part of the limit that weights should take at most: something else wants the rest.
        origin: Where the limit comes from, for messages.
        streams: Whether the device is another than the host, so that there is something to stream from.
    """

    limit: int | None
    share: float
    origin: str
    streams: bool

    @classmethod
    def of(cls, denoiser: nn.Module, memory_limit: int | None, *, share: float) -> Room:
        """Return what there is where a denoiser runs, also where it is offloaded meanwhile.

        Args:
            denoiser: The dense denoiser.
            memory_limit: Bytes; by default what is free on the device or the denoiser's already, and as much as is
                wanted on a CPU.
            share: See the attribute.
        """
        device = _runs_on(denoiser)
        streams = device.type != "cpu"
        if memory_limit is not None:
            return cls(memory_limit, share, f"memory_limit={memory_limit}", streams)
        free = _free(denoiser, device)
        return cls(free, share, f"{device} has free {free}", streams)

    def holds(self, taken: int) -> bool:
        """Whether weights of so many bytes keep to their share."""
        return self.limit is None or taken <= self.share * self.limit

    def plan(self, needed: Mapping[Mode, int], preference: Sequence[Mode] = FASTEST_FIRST) -> ModePlan:
        """Choose the first mode that keeps to its share; where none does, the one that takes least.

        Args:
            needed: Bytes that the weights take in each mode.
            preference: The best first.

        Raises:
            InputError: not even the least fits.
        """
        modes = [mode for mode in preference if self.streams or mode != "stream"]
        least = min(modes, key=lambda mode: needed[mode])
        if self.limit is not None and needed[least] > self.limit:
            raise InputError(
                f"{self.origin} bytes ({self.limit / _GIB:.2f} GiB): the weights take at least "
                f"{needed[least] / _GIB:.2f} GiB (mode {least!r}). Allow or free more, use a smaller dtype, or offload "
                "the model (pipe.enable_model_cpu_offload())."
            )
        mode = next((mode for mode in modes if self.holds(needed[mode])), least)
        return ModePlan(mode, needed, self.limit, self._why(mode, modes, needed))

    def _why(self, mode: Mode, modes: Sequence[Mode], needed: Mapping[Mode, int]) -> str:
        text = f"{mode}: its weights take up to {needed[mode] / _GIB:.2f}"
        if self.limit is None:
            return f"{text} GiB, and nothing limits them."
        text += f" of {self.limit / _GIB:.2f} GiB"
        better = [f"{other} would take {needed[other] / _GIB:.2f}" for other in modes[: modes.index(mode)]]
        if not better:
            return f"{text}, and nothing is faster."
        beside = f", and {1 - self.share:.0%} is for all else" if self.share < 1 else ""
        return f"{text}; {' and '.join(better)}{beside}."


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
    room = Room.of(denoiser, memory_limit, share=_FOR_WEIGHTS if memory_limit is None else 1.0)
    return room.plan(weight_bytes(denoiser, source, schedule))


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
    occupied = dense_bytes(denoiser) if next(denoiser.parameters()).device == device else 0
    return int(free) + unused + occupied
