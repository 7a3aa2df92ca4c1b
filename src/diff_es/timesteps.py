"""Which timesteps a pipeline visits, and the stages that they are cut into."""

from __future__ import annotations

import copy
import functools
import traceback
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from diff_es.errors import InputError
from diff_es.sampling import any_requests, call_parameters, check_all_steps, forked_generators, quiet
from diff_es.stages import StagePlan

#: Arguments by which pipelines take the image that they start from or keep to.
_IMAGES = frozenset(("image", "control_image"))
#: Where a pipeline and its scheduler agree on the timesteps.
_AGREEING = frozenset(("retrieve_timesteps", "set_timesteps"))


class ImageNeededError(InputError):
    """A pipeline cannot be called with a prompt alone, so that nothing says which timesteps it visits."""


def stage_plan(
    pipe: Any, num_stages: int, num_inference_steps: int, arguments: Mapping[str, Any] | None = None
) -> StagePlan:
    """Split the steps that a pipeline takes in `num_inference_steps`; the pipeline is not changed.

    Args:
        pipe: A diffusers pipeline.
        num_stages: Number of stages, 1 to the number of its steps.
        num_inference_steps: As it is given to the pipeline.
        arguments: What else the pipeline is given; the size of the image may shift the steps of a flow.

    Raises:
        InputError: more stages than steps, a step count that the scheduler refuses, timesteps that ascend, or arguments
            that leave steps out.
        ImageNeededError: the pipeline wants an image as well (image to image, ControlNet); it is an InputError.
    """
    check_all_steps(arguments or {})
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps={num_inference_steps} must be at least 1.")
    scheduler = pipe.scheduler
    name = type(scheduler).__name__
    try:
        timesteps = sampler_timesteps(pipe, num_inference_steps, arguments)
    # Pipelines and schedulers that do not go together say so in all three ways.
    except (ValueError, TypeError, AssertionError) as error:
        if _wants_an_image(pipe, error):
            raise ImageNeededError(
                f"{type(pipe).__name__} needs more than a prompt before it sets its timesteps ({error}): plan the "
                "stages with the text-to-image pipeline of the same model, and make this one from it (`from_pipe`)."
            ) from error
        raise InputError(
            f"{name} refuses num_inference_steps={num_inference_steps} in {type(pipe).__name__}"
            f" ({error or 'it says no more'}): choose another number of steps, or another scheduler."
        ) from error
    if any(later > earlier for earlier, later in pairwise(timesteps)):
        raise InputError(
            f"The timesteps of {name} do not descend ({timesteps[:4]}…); stages need a sampler that goes from noise to "
            "image."
        )
    return StagePlan.split(timesteps, num_stages, int(scheduler.config.num_train_timesteps))


def _wants_an_image(pipe: Any, error: Exception) -> bool:
    """Whether a pipeline that takes an image failed before it came to its scheduler."""
    passed = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return not _IMAGES.isdisjoint(call_parameters(pipe)) and _AGREEING.isdisjoint(passed)


class _Set(Exception):  # noqa: N818 (ends a call early, no error)
    """Leaves the pipeline when its timesteps are set."""


def sampler_timesteps(
    pipe: Any, num_inference_steps: int, arguments: Mapping[str, Any] | None = None
) -> tuple[float, ...]:
    """Return the timesteps that a pipeline visits, noisiest first, in train units; the pipeline is not changed.

    Pipelines of flow models (FLUX) hand their scheduler sigmas of their own, and a shift that depends on the size of
    the image, so that the scheduler alone would give other timesteps. A pipeline that may do so is called, and left as
    soon as the timesteps are set: the text encoders run, the denoiser does not.

    Raises:
        ValueError: the scheduler refuses the number of steps.
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    if "sigmas" in call_parameters(pipe):
        _rehearse(pipe, scheduler, {**(arguments or {}), "num_inference_steps": num_inference_steps})
    else:
        scheduler.set_timesteps(num_inference_steps)
    return tuple(float(timestep) for timestep in scheduler.timesteps)


def _rehearse(pipe: Any, scheduler: Any, arguments: Mapping[str, Any]) -> None:
    """Call a pipeline until it has set the timesteps of `scheduler`, which stands in for its own meanwhile."""
    own, set_timesteps = pipe.scheduler, scheduler.set_timesteps

    # Pipelines look at the signature, to see what their scheduler takes.
    @functools.wraps(set_timesteps)
    def set_and_leave(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        raise _Set

    scheduler.set_timesteps = set_and_leave
    pipe.scheduler = scheduler
    try:
        with forked_generators(pipe), quiet(pipe):
            pipe(**any_requests(pipe, 1).arguments(), **arguments)
    except _Set:
        pipe.maybe_free_model_hooks()
    finally:
        pipe.scheduler = own
