"""Which memory mode a search runs in, and the rule by which other parts of a run choose theirs.

`choose_mode` may fill the device with weights. A run needs room beside them: for activations, outputs that are kept for
replay, thin layers that are kept for the next candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError
from diff_es.routing import Mode, ModePlan, choose_mode
from diff_es.routing.planner import weight_bytes
from diff_es.schedule import Allocation

if TYPE_CHECKING:
    from diff_es.bank import ThinSource
    from diff_es.schedule import ScheduleSpace

_GIB = 2**30
#: Share of the limit that weights may take, wherever some mode takes no more.
_SHARE = 0.75
#: In "gather" a candidate's stage is cut when it is entered. "stream" would cut all stages of each candidate and pack
#: them in pinned host memory before its first call, so that it comes last although it takes less.
_FOR_A_SEARCH: tuple[Mode, ...] = ("resident", "gather", "stream")


def plan_search(
    pipe: Any, source: ThinSource, allocation: Allocation, space: ScheduleSpace, memory_limit: int | None = None
) -> ModePlan:
    """Choose the memory mode for a search.

    All schedules of a space remove the same, so that the stages of each together are about as large as those of the
    uniform one; but one stage, which is what "gather" and "stream" take, may be pruned as little as level 1 does.

    Args:
        pipe: The dense pipeline.
        source: The bank, or what is known of its sizes.
        allocation: What stage levels mean for layers.
        space: The schedules that will be searched.
        memory_limit: Bytes of device memory for weights and all that comes with them; by default what the device has
            free beside the dense weights, or as much as is wanted on a CPU.

    Raises:
        InputError: no mode fits.
    """
    torch.cuda.empty_cache()  # what torch has put aside is free as well
    usual = choose_mode(pipe, source, allocation.resolve(space.uniform()), memory_limit)
    every_layer = Allocation.uniform(source.layers, space.num_stages, source.num_levels)
    largest = weight_bytes(denoiser_of(pipe), source, every_layer.resolve((1,) * space.num_stages))
    needed = {**largest, "resident": usual.weight_bytes["resident"]}
    return first_that_fits(modes_on(pipe, _FOR_A_SEARCH), needed, usual.limit)


def modes_on(pipe: Any, modes: Sequence[Mode]) -> tuple[Mode, ...]:
    """Return the modes that make sense where the denoiser is: on a CPU there is nothing to stream from."""
    device = next(denoiser_of(pipe).parameters()).device
    return tuple(mode for mode in modes if mode != "stream" or device.type != "cpu")


def leaves_room(taken: int, limit: int | None) -> bool:
    """Whether weights of so many bytes leave a quarter of the memory for all else."""
    return limit is None or taken <= _SHARE * limit


def first_that_fits(modes: Sequence[Mode], needed: Mapping[Mode, int], limit: int | None) -> ModePlan:
    """Choose the first mode that leaves a quarter of the memory free; where none does, the one that takes least.

    Args:
        modes: The best first.
        needed: What the weights take in each.
        limit: Bytes of device memory; None where nothing limits it.

    Raises:
        InputError: not even the least fits.
    """
    fitting = [mode for mode in modes if leaves_room(needed[mode], limit)]
    mode = fitting[0] if fitting else min(modes, key=lambda own: needed[own])
    if limit is not None and needed[mode] > limit:
        raise InputError(
            f"The weights take up to {needed[mode] / _GIB:.2f} GiB of device memory in mode {mode!r}, the least, and "
            f"there are {limit / _GIB:.2f} GiB. Use a smaller dtype, or a device with more memory."
        )
    return ModePlan(mode, needed, limit, _reason(mode, modes, needed, limit))


def _reason(mode: Mode, modes: Sequence[Mode], needed: Mapping[Mode, int], limit: int | None) -> str:
    text = f"{mode}: the weights take up to {needed[mode] / _GIB:.2f} GiB"
    if limit is None:
        return f"{text}, and nothing limits them."
    text += f" of {limit / _GIB:.2f}"
    better = [f"{other} would take {needed[other] / _GIB:.2f}" for other in modes[: modes.index(mode)]]
    return f"{text}; {' and '.join(better)}, and a quarter is to stay free." if better else f"{text}."


def spare_bytes(plan: ModePlan, wanted: int) -> int:
    """Return how many bytes of one kind may be kept for later candidates: as wanted, or a quarter of what is left."""
    return wanted if plan.limit is None else min(wanted, (plan.limit - plan.weight_bytes[plan.mode]) // 4)
