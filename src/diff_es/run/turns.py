"""How contestants share the device's memory: the weights of one after the other, or of all where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import denoiser_of
from diff_es.routing import Mode
from diff_es.routing.planner import BESIDE_A_RUN, FASTEST_FIRST, Room
from diff_es.routing.sizes import dense_bytes, weight_bytes

if TYPE_CHECKING:
    from diff_es.bank import ThinSource
    from diff_es.schedule import PruningSchedule


@dataclass(frozen=True)
class Turns:
    """How contestants are routed.

    Attributes:
        mode: The memory mode of all of them: times in different modes would say nothing of the schedules.
        together: Whether the weights of all may be there at once, so that they need be cut but once.
        why: One sentence for people.
    """

    mode: Mode
    together: bool
    why: str


def plan_turns(
    pipe: Any, pruned: Sequence[tuple[ThinSource, PruningSchedule]], memory_limit: int | None = None
) -> Turns:
    """Choose the fastest memory mode in which each contestant fits alone.

    Args:
        pipe: The dense pipeline.
        pruned: Where the weights of each contestant are, and its schedule.
        memory_limit: Bytes of device memory for weights and activations; by default what is free.

    Raises:
        InputError: one of them fits in no mode.
    """
    if not pruned:
        return Turns("resident", together=True, why="Nothing is pruned.")
    torch.cuda.empty_cache()  # what torch has put aside is free as well
    denoiser = denoiser_of(pipe)
    needed = [weight_bytes(denoiser, source, schedule) for source, schedule in pruned]
    room = Room.of(denoiser, memory_limit, share=BESIDE_A_RUN)
    plan = room.plan({mode: max(own[mode] for own in needed) for mode in FASTEST_FIRST})
    dense = dense_bytes(denoiser)
    all_resident = dense + sum(own["resident"] - dense for own in needed)
    together = plan.mode == "resident" and room.holds(all_resident)
    return Turns(plan.mode, together, plan.why if together else f"{plan.why} Each is cut anew when its turn comes.")
