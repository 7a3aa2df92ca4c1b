"""Load an artefact into a pipeline: what users of a pruned model call."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diff_es.bank import Pruned
from diff_es.routing.apply import apply_
from diff_es.routing.router import Mode
from diff_es.stages import StagePlan

_log = logging.getLogger(__name__)


def load(path: str | Path, pipe: Any, *, mode: Mode = "resident") -> Pruned:
    """Route a dense pipeline by an artefact on disk; the pipeline's denoiser is modified in place.

    Args:
        path: The artefact's folder (`pruned/` of a run).
        pipe: The pipeline that the artefact was made from, dense.
        mode: See `apply_`.

    Returns:
        The opened artefact; its `info.sampler` says for which steps and guidance it was searched.

    Raises:
        ArtifactError: the folder is incomplete, damaged, foreign or of a newer format.
        UnsupportedModelError: the pipeline holds another model.
    """
    pruned = Pruned.open(Path(path))
    apply_(pipe, pruned, pruned.info.schedule, mode=mode)
    _warn_of_other_steps(pipe, pruned)
    return pruned


def _warn_of_other_steps(pipe: Any, pruned: Pruned) -> None:
    """Say so when the pipeline's sampler is not the one that the schedule was searched for."""
    info = pruned.info
    steps = info.sampler.num_inference_steps
    here = StagePlan.from_pipeline(pipe, info.plan.num_stages, steps).timesteps
    scheduler = type(pipe.scheduler).__name__
    if scheduler != info.scheduler or here != info.plan.timesteps:
        _log.warning(
            "The schedule was searched for %s, whose %d steps visit the timesteps %s…; this pipeline's %s visits %s…. "
            "Images may be worse than at the search.",
            *(info.scheduler, steps, info.plan.timesteps[:3], scheduler, here[:3]),
        )
