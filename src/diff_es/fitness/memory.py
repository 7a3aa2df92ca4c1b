"""Which memory mode a search runs in, and what it may keep for later candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import denoiser_of
from diff_es.fitness.trajectory import DEFAULT_CACHE_BYTES, DEFAULT_REPLAY_BYTES
from diff_es.routing import Mode, ModePlan
from diff_es.routing.planner import BESIDE_A_RUN, Room
from diff_es.routing.sizes import dense_bytes, weight_bytes
from diff_es.schedule import Allocation

if TYPE_CHECKING:
    from torch import nn

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
    denoiser = denoiser_of(pipe)
    usual = weight_bytes(denoiser, source, allocation.resolve(space.uniform()))
    every_layer = Allocation.uniform(source.layers, space.num_stages, source.num_levels)
    largest = weight_bytes(denoiser, source, every_layer.resolve((1,) * space.num_stages))
    room = Room.of(denoiser, memory_limit, share=BESIDE_A_RUN)
    return room.plan({**largest, "resident": usual["resident"]}, _FOR_A_SEARCH)


@dataclass(frozen=True)
class KeptBytes:
    """Device memory that a search may fill with what later candidates may want.

    Attributes:
        replay: Bytes of denoiser outputs.
        thin: Bytes of thin layers beyond the present schedule's; only mode "resident" keeps any.
    """

    replay: int
    thin: int


def kept_bytes(plan: ModePlan) -> KeptBytes:
    """Return what is kept of each kind: the default, or a quarter of what the weights leave."""
    thin = _spare(plan, DEFAULT_CACHE_BYTES) if plan.mode == "resident" else 0
    return KeptBytes(_spare(plan, DEFAULT_REPLAY_BYTES), thin)


def bytes_beside_dense(denoiser: nn.Module, plan: ModePlan) -> int:
    """Return the device memory that a search takes, at most, beside the dense weights and the activations."""
    kept = kept_bytes(plan)
    return max(0, plan.weight_bytes[plan.mode] - dense_bytes(denoiser)) + kept.replay + kept.thin


def _spare(plan: ModePlan, wanted: int) -> int:
    return wanted if plan.limit is None else min(wanted, (plan.limit - plan.weight_bytes[plan.mode]) // 4)
