"""Save a pruned model as an artefact, and load it into a pipeline, also in another process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diff_es.bank import Bank, Pruned, PrunedInfo, save_pruned
from diff_es.bank.pruned import FORMAT as PRUNED_FORMAT
from diff_es.denoisers import dense_denoiser_of, spec_of
from diff_es.routing.apply import apply_, check_model
from diff_es.routing.router import Mode
from diff_es.sampling import SamplerConfig
from diff_es.schedule import PruningSchedule
from diff_es.schedulers import scheduler_facts
from diff_es.stages import StagePlan
from diff_es.versions import versions

_log = logging.getLogger(__name__)


def save(  # noqa: PLR0913 (facts of the artefact)
    path: str | Path,
    pipe: Any,
    bank: Bank,
    schedule: PruningSchedule,
    *,
    sampler: SamplerConfig,
    base_model: str,
) -> Pruned:
    """Write a schedule with the thin weights that it needs: complete or not at all.

    Args:
        path: The artefact's folder; must not exist.
        pipe: The dense pipeline.
        bank: The bank that the schedule was searched in.
        schedule: What is pruned where.
        sampler: Steps and guidance that it was searched for.
        base_model: How the dense pipeline is loaded: a path, a Hub id, or "zoo:NAME".

    Raises:
        InputError: the folder exists.
        ArtifactError: it cannot be written (disk full, no permission).
        UnsupportedModelError: the bank belongs to another model, or the pipeline is routed.
    """
    denoiser = dense_denoiser_of(pipe)
    check_model(denoiser, bank)
    info = PrunedInfo(
        format=PRUNED_FORMAT,
        base_model=base_model,
        fingerprint=bank.fingerprint,
        scheduler=type(pipe.scheduler).__name__,
        sampler=sampler,
        method=bank.info.method,
        depth=bank.depth,
        plan=bank.plan,
        schedule=schedule,
        versions=versions(),
        scheduler_config=scheduler_facts(pipe.scheduler),
    )
    return save_pruned(Path(path), info, bank, spec_of(denoiser).layers(denoiser, blocks=bank.depth))


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
    _warn_of_other_scheduler(pipe, pruned.info)
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


def _warn_of_other_scheduler(pipe: Any, info: PrunedInfo) -> None:
    """Say so when the same scheduler would go other ways through the same timesteps."""
    if type(pipe.scheduler).__name__ != info.scheduler or info.scheduler_config is None:
        return
    here, then = scheduler_facts(pipe.scheduler), info.scheduler_config
    names = [name for name in {**then, **here} if here.get(name) != then.get(name)]
    differences = [f"{name} was {then.get(name, 'the default')}, is {here.get(name, 'the default')}" for name in names]
    if differences:
        _log.warning(
            "The schedule was searched for %s with other settings than this pipeline's: %s. Images may be worse.",
            *(info.scheduler, "; ".join(differences)),
        )
