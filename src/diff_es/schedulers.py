"""diffusers' schedulers by name: another sampler in place of the pipeline's own."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from typing import Any

import diffusers

from diff_es.errors import InputError
from diff_es.registry import suggest

#: What a scheduler that is not one of flow models alone needs to sample from one.
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def with_scheduler(pipe: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Return the pipeline with another scheduler; it shares the models of the given one, which keeps its own.

    Args:
        pipe: A diffusers pipeline.
        name: Class of the scheduler.
        options: What shall differ from the configuration of the pipeline's own scheduler. The shift of a flow model
            is carried over, whatever the other class calls it.

    Raises:
        InputError: no such scheduler or option, one that needs a package that is missing, or one that does not sample
            from models of this kind.
    """
    kind = _scheduler_class(name)
    _check_options(kind, options)
    own = pipe.scheduler.config
    _check_kind(pipe.scheduler, kind, {**own, **options})
    other = copy.copy(pipe)
    try:
        other.scheduler = kind.from_config(own, **{**_shift(own, kind), **options})
    except (ImportError, ValueError, NotImplementedError) as error:
        raise InputError(f"sampler.scheduler={name} with scheduler_options={dict(options)}: {error}") from error
    return other


def with_recorded_scheduler(pipe: Any, name: str, facts: Mapping[str, Any]) -> Any:
    """Return the pipeline with the scheduler of an artefact; the pipeline itself where it has that one already.

    Args:
        pipe: A diffusers pipeline.
        name: Class of the scheduler.
        facts: What `scheduler_facts` gave.

    Raises:
        InputError: this version of diffusers has no such scheduler or option.
    """
    if (type(pipe.scheduler).__name__, scheduler_facts(pipe.scheduler)) == (name, facts):
        return pipe
    kind = _scheduler_class(name)
    _check_options(kind, facts)
    other = copy.copy(pipe)
    other.scheduler = kind(**facts)
    return other


def scheduler_facts(scheduler: Any) -> dict[str, Any]:
    """Return the options in which a scheduler differs from the defaults of its class, as plain JSON values.

    `from_config` also keeps those of the scheduler that it came from, on which nothing depends.
    """
    found: dict[str, Any] = json.loads(scheduler.to_json_string())
    defaults = {name: known.default for name, known in inspect.signature(type(scheduler).__init__).parameters.items()}
    return {name: found[name] for name in _parameters(type(scheduler)) if found[name] != defaults[name]}


def _scheduler_class(name: str) -> Any:
    names = [known for known in dir(diffusers) if known.endswith("Scheduler") and not known.startswith("Flax")]
    if name not in names:
        raise InputError(f"sampler.scheduler={name!r} is no scheduler of diffusers: {suggest(name, names)}")
    return getattr(diffusers, name)


def _parameters(kind: Any) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "args", "kwargs")]


def _check_options(kind: Any, options: Mapping[str, Any]) -> None:
    """Diffusers drops unknown options with a warning."""
    known = _parameters(kind)
    for name in options if known else ():  # a class whose package is missing has none
        if name not in known:
            raise InputError(f"sampler.scheduler_options.{name}: {kind.__name__} has none; {suggest(name, known)}")


def _check_kind(own: Any, kind: Any, settings: Mapping[str, Any]) -> None:
    """A scheduler for noise predictions would run on velocities without an error, and give noise."""
    flow_model = _only_flow(type(own)) or _asks_for_flow(own.config)
    if flow_model and not _only_flow(kind) and not _asks_for_flow(settings):
        way = "choose FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler"
        if set(_FLOW) <= set(_parameters(kind)):
            way = f"add sampler.scheduler_options: {json.dumps(_FLOW)}"
        raise InputError(
            f"sampler.scheduler={kind.__name__} would sample from a flow model as from one that predicts noise; {way}."
        )
    if not flow_model and (_only_flow(kind) or _asks_for_flow(settings)):
        raise InputError(
            f"sampler.scheduler={kind.__name__} samples from flow models, and this one has the "
            f"{type(own).__name__} of another kind; choose DPMSolverMultistepScheduler without flow options."
        )


def _only_flow(kind: Any) -> bool:
    return str(kind.__name__).startswith("Flow")


def _asks_for_flow(settings: Mapping[str, Any]) -> bool:
    return settings.get("prediction_type") == "flow_prediction" or bool(settings.get("use_flow_sigmas"))


def _shift(own: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The same shift under the name that the other class has for it."""
    names = ("shift", "flow_shift")
    values = [own[name] for name in names if own.get(name) is not None]
    known = _parameters(kind)
    return {name: values[0] for name in names if values and name in known and name not in own}
