"""Which memory mode a search runs in, and what it may keep for later candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import denoiser_of
from diff_es.routing import Mode, ModePlan
from diff_es.routing.planner import BESIDE_A_RUN, Room
from diff_es.routing.sizes import weight_bytes
from diff_es.schedule import Allocation

if TYPE_CHECKING:
    from diff_es.bank import ThinSource
    from diff_es.schedule import ScheduleSpace

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
        pipe: The pipeline.
        source: The bank, or what is known of its sizes.
        allocation: What stage levels mean for layers.
        space: The schedules that will be searched.
        memory_limit: Bytes of device memory for weights and all that comes with them; by default what the device has
            free beside the dense weights, or as much as is wanted on a CPU.

    Raises:
        InputError: no mode fits.
    """
    torch.cuda.empty_cache()  # what torch has put aside is free as well
    denoiser = denoiser_of(pipe)
    usual = weight_bytes(denoiser, source, allocation.resolve(space.uniform()))
    every_layer = Allocation.uniform(source.layers, space.num_stages, source.num_levels)
    largest = weight_bytes(denoiser, source, every_layer.resolve((1,) * space.num_stages))
    room = Room.of(denoiser, memory_limit, share=BESIDE_A_RUN)
    return room.plan({**largest, "resident": usual["resident"]}, _FOR_A_SEARCH)


def spare_bytes(plan: ModePlan, wanted: int) -> int:
    """Return how many bytes of one kind may be kept for later candidates: as wanted, or a quarter of what is left."""
    return wanted if plan.limit is None else min(wanted, (plan.limit - plan.weight_bytes[plan.mode]) // 4)
