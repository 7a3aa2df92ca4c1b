"""The dense pipeline that an artefact is used with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.errors import InputError
from diff_es.pipelines import load_pipeline, resolve_device
from diff_es.schedulers import with_recorded_scheduler

if TYPE_CHECKING:
    from diff_es.bank import PrunedInfo


def load_base(info: PrunedInfo, model: str | None, device: str) -> Any:
    """Load the dense pipeline of an artefact, with the scheduler that its schedule was searched for.

    Args:
        info: The artefact's manifest.
        model: Where the dense pipeline is; by default where the artefact says.
        device: "auto", "cpu", "cuda", …

    Raises:
        InputError: the model cannot be loaded, or the scheduler does not sample from it.
    """
    resolve_device(device)  # what is wrong with it has nothing to do with the model
    try:
        pipe = load_pipeline(model or info.base_model, info.fingerprint.dtype, device)
    except InputError as error:
        if model:
            raise
        raise InputError(
            f"{error} The artefact names {info.base_model!r} as its dense model: if that is elsewhere now, give "
            "--model (in Python: model=...)."
        ) from error
    if info.scheduler_config is None:
        return pipe
    return with_recorded_scheduler(pipe, info.scheduler, info.scheduler_config)
