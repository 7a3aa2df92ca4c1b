"""Save a pruned model as an artefact, and load it into a pipeline, also in another process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from diff_es.bank import Bank, Pruned, PrunedInfo, save_pruned
from diff_es.bank.pruned import FORMAT as PRUNED_FORMAT
from diff_es.denoisers import dense_denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.routing.apply import apply_, check_model
from diff_es.routing.residence import Mode
from diff_es.sampling import SamplerConfig
from diff_es.schedule import PruningSchedule
from diff_es.schedulers import scheduler_facts
from diff_es.stages import StagePlan
from diff_es.timesteps import ImageNeededError, stage_plan
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
        pipe: The dense pipeline, with the scheduler that the schedule was searched for.
        bank: The bank that the schedule was searched in.
        schedule: What is pruned where.
        sampler: Steps and guidance that it was searched for.
        base_model: How the dense pipeline is loaded: a folder (kept as an absolute path), a Hub id, or "zoo:NAME".

    Raises:
        InputError: the folder exists, or the pipeline's sampler takes other steps than the bank's stages were made for.
        ArtifactError: it cannot be written (disk full, no permission).
        UnsupportedModelError: the bank belongs to another model, or the pipeline is routed.
    """
    denoiser = dense_denoiser_of(pipe)
    check_model(denoiser, bank)
    _check_sampler(pipe, bank.plan, sampler)
    info = PrunedInfo(
        format=PRUNED_FORMAT,
        base_model=str(Path(base_model).absolute()) if Path(base_model).is_dir() else base_model,
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


def _check_sampler(pipe: Any, plan: StagePlan, sampler: SamplerConfig) -> None:
    """Refuse to record a sampler for which the schedule was not searched.

    Raises:
        InputError: it takes other steps than the plan has.
    """
    here = stage_plan(pipe, 1, sampler.num_inference_steps, sampler.arguments).timesteps
    if here != plan.timesteps:
        raise InputError(
            f"sampler={sampler}: the bank's stages were made for steps that visit {_few(plan.timesteps)}; this "
            f"pipeline's {type(pipe.scheduler).__name__} visits {_few(here)}. Save with the scheduler and the number "
            "of steps of the search; `load` takes others (sampler=...)."
        )


def load(
    path: str | Path,
    pipe: Any,
    *,
    mode: Mode | Literal["auto"] = "auto",
    memory_limit: int | None = None,
    sampler: SamplerConfig | None = None,
) -> Pruned:
    """Route a dense pipeline by an artefact on disk; the pipeline's denoiser is modified in place.

    Args:
        path: The artefact's folder (`pruned/` of a run).
        pipe: The pipeline that the artefact was made from, dense; or another one with the same denoiser (image to
            image, ControlNet), whose steps are not checked where it cannot be asked for them without an image.
        mode: See `apply_`; by default the fastest that fits.
        memory_limit: For "auto": bytes of device memory for the denoiser's weights; by default what is free.
        sampler: Steps and guidance that the pipeline will be called with; by default those of the search.

    Returns:
        The opened artefact; its `info.sampler` says for which steps and guidance it was searched.

    Raises:
        ArtifactError: the folder is incomplete, damaged, foreign or of a newer format.
        UnsupportedModelError: the pipeline holds another model.
        InputError: the pipeline's sampler takes no step in one of the stages, or no memory mode fits.
    """
    pruned = Pruned.open(Path(path))
    check_model(dense_denoiser_of(pipe), pruned)
    _check_steps(pipe, pruned.info, sampler or pruned.info.sampler)
    apply_(pipe, pruned, pruned.info.schedule, mode=mode, memory_limit=memory_limit)
    _warn_of_other_scheduler(pipe, pruned.info)
    return pruned


def _check_steps(pipe: Any, info: PrunedInfo, sampler: SamplerConfig) -> None:
    """Refuse a sampler that leaves a stage out, and say so where it is merely another than at the search.

    Raises:
        InputError: a stage would get no step: its share of the budget would go to other stages, and what was searched
            for would not be what runs.
    """
    then = f"{info.scheduler}, whose {info.sampler.num_inference_steps} steps visit {_few(info.plan.timesteps)}"
    try:
        here = stage_plan(pipe, 1, sampler.num_inference_steps, sampler.arguments).timesteps
    except ImageNeededError:
        _log.warning(
            "%s does not say without an image which timesteps it visits: they were not compared with those of the "
            "search (%s). Each is routed to the stage that it lies in.",
            *(type(pipe).__name__, then),
        )
        return
    if type(pipe.scheduler).__name__ == info.scheduler and here == info.plan.timesteps:
        return
    now = f"{type(pipe.scheduler).__name__}, whose {sampler.num_inference_steps} steps visit {_few(here)}"
    missing = sorted(set(range(info.plan.num_stages)) - {info.plan.stage_at(timestep) for timestep in here})
    if missing:
        raise InputError(
            f"The schedule was searched for {then}; this pipeline has {now}: stages {missing} of "
            f"{info.plan.num_stages} would get no step. Use the sampler and the number of steps of the search."
        )
    _log.warning("The schedule was searched for %s; this pipeline has %s. Images may be worse.", then, now)


def _few(timesteps: tuple[float, ...]) -> str:
    """The first timesteps, for people."""
    return ", ".join(f"{timestep:.4g}" for timestep in timesteps[:4]) + ", …" * (len(timesteps) > 4)


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
