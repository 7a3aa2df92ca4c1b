"""The step that a running pipeline is at, as its scheduler counts it on the host."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from diffusers import DiffusionPipeline

if TYPE_CHECKING:
    from torch import Tensor, nn


def scheduled_timestep(denoiser: nn.Module) -> Tensor | None:
    """Return the entry of the scheduler's timesteps that the running step has, shape (), on the scheduler's device.

    None where no pipeline is calling the denoiser, where its scheduler does not count steps (DDIM, DDPM, PNDM), and
    at the first step of a run where it does not know yet at which it begins. Any call of the denoiser while the
    pipeline runs counts as one of its step, also one that a callback makes.
    """
    scheduler = getattr(_calling_pipeline(denoiser), "scheduler", None)
    step = getattr(scheduler, "step_index", None)
    if step is None:
        step = getattr(scheduler, "begin_index", None)
    if scheduler is None or step is None or not 0 <= step < len(scheduler.timesteps):
        return None
    entry: Tensor = scheduler.timesteps[step]
    return entry


def _calling_pipeline(denoiser: nn.Module) -> Any:
    """Return the pipeline whose call leads to this one of its denoiser, or None.

    A pipeline that merely has this denoiser may have stopped in the middle of a run, and its scheduler with it: only
    one that is on the call stack is known to be at the step that it counts.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline) and any(part is denoiser for part in vars(owner).values()):
                return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None
