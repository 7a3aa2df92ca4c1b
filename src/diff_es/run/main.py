"""The main job: a recipe from start to end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diff_es.artifacts import differences, is_leftover, locked, remove_leftovers, write_bytes
from diff_es.bank import Pruned
from diff_es.baselines import three_stage
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import DENSE, Evaluation
from diff_es.execution import LocalExecutor, RayWorkers
from diff_es.recipe import Recipe
from diff_es.report import write_report
from diff_es.run.judges import known_judge
from diff_es.run.measure import Bench, Contestant, evaluate, evaluation_samples
from diff_es.run.session import Session
from diff_es.run.show import report_content
from diff_es.run.workers import OpenSession, SessionWorker
from diff_es.schedule import ScheduleSpace

if TYPE_CHECKING:
    from diff_es.evaluation.caches import Cache
    from diff_es.search import SearchResult

_log = logging.getLogger(__name__)

#: What a run makes again where it is missing, relative to its folder.
_MADE_AGAIN = ("bank", "calibration/*.safetensors", "evaluation.json", "pruned", "search/*.json")

#: What a search does, in words.
_FOUND = {
    "evolution": "found by the search",
    "uniform": "all the same",
    "three-stage": "of three hand-made stages, our reading of MosaicDiff",
}


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        folder: The run directory.
        pruned: The artefact, in `folder / "pruned"`.
        search: The result of the recipe's search.
        evaluation: Dense model and schedules side by side.
        report: The report's path.
    """

    folder: Path
    pruned: Pruned
    search: SearchResult
    evaluation: Evaluation
    report: Path


def compress(  # noqa: PLR0913 (each is one independent choice)
    recipe: Recipe,
    folder: str | Path,
    *,
    pipe: Any = None,
    resume: bool = False,
    command: str = "",
    workers: RayWorkers | None = None,
) -> RunResult:
    """Prune a model as a recipe says, measure the result, and write everything to a folder.

    Args:
        recipe: What to do.
        folder: The run directory; it must be new unless `resume`.
        pipe: The dense pipeline, where it is loaded already; by default `recipe.model` is loaded.
        resume: Go on with a run of the same recipe that was stopped, at whatever moment.
        command: The command line to print in the report.
        workers: Who calibrates, prunes, scores schedules and generates images; each loads `recipe.model` and sees
            `folder`. None does it all in this process. The result does not depend on them.

    Raises:
        InputError: the folder is taken, the recipe differs from the one that the run was started with, the recipe
            cannot be carried out, or the workers cannot be had.
        ArtifactError: the folder cannot be written, or something in it is damaged.
        ExecutionError: the workers die whatever they do.
    """
    if workers is not None:
        workers.check()
        if pipe is not None:
            raise InputError("pipe: workers load recipe.model themselves; leave pipe out, or do without workers.")
    folder = Path(folder)
    _check_folder(recipe, folder, resume=resume)
    session = Session(recipe, folder, pipe)
    session.check()
    if not (folder / "search" / recipe.search.allocation / "result.json").exists():
        _log.info("Memory mode of the search, as predicted: %s", session.planned_memory.why)
        _log_budget(session.space)
    bench = Bench(session.pipe, session.sampler, known_judge(recipe.model))
    with _saying_what_is_made_again(folder), ExitStack() as working:
        working.enter_context(_working(session, bench, workers))
        # Workers write in the folder, so they end before it is given up, whatever happens.
        with _owned(folder), closing(working):
            # Another run may have started here since the first look.
            _check_folder(recipe, folder, resume=resume)
            # Those of a killed run; the lock says that no one else is writing now.
            remove_leftovers(folder)
            if not (folder / "recipe.yaml").exists():
                write_bytes(folder / "recipe.yaml", recipe.dump().encode())
            result = session.search(recipe.search.allocation)
            pruned = session.pruned()
            contestants = _contestants(session)
            evaluation_samples(session, bench, contestants)
            # Latencies are measured when nobody else is at work.
            working.close()
            evaluation = _evaluation(session, bench, contestants)
            report = write_report(folder, report_content(session, bench, contestants, evaluation, command))
            return RunResult(folder, pruned, result, evaluation, report)


@contextmanager
def _saying_what_is_made_again(folder: Path) -> Iterator[None]:
    """Add the way out where something is damaged that a run makes again once it is removed."""
    try:
        yield
    except ArtifactError as error:
        place = _made_again(folder.resolve(), error.path.resolve()) if error.path else None
        if place is None:
            raise
        raise ArtifactError(f"{error} Remove {folder / place}, and --resume makes it again.", error.path) from error


def _made_again(folder: Path, damaged: Path) -> Path | None:
    """Return what to remove, relative to the run's folder, so that the damaged file is made again; None if nothing."""
    within = [place.relative_to(folder) for place in (damaged, *damaged.parents) if place.is_relative_to(folder)]
    return next((place for place in within if any(fnmatch(place.as_posix(), known) for known in _MADE_AGAIN)), None)


def _log_budget(space: ScheduleSpace) -> None:
    """Say so where whole levels remove more than was asked for."""
    if space.least > space.sparsity + 1e-9:
        _log.info(
            "Budget: search.sparsity=%g is rounded up to whole levels: schedules of %d stages and %d levels remove at "
            "least %.4g of the groups.",
            *(space.sparsity, space.num_stages, space.num_levels, space.least),
        )


def _check_folder(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Check that a folder is new, or holds a run of this recipe that may be resumed."""
    path = folder / "recipe.yaml"
    if path.exists():
        if not resume:
            raise InputError(f"output={folder} holds a run already; go on with it by --resume, or choose another.")
        others = differences(*(version.model_dump(mode="json") for version in (Recipe.read(path), recipe)))
        if others:
            raise InputError(
                f"output={folder} was started with another recipe: {'; '.join(others)}. Resume with {path}, or "
                "choose another folder."
            )
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"output={folder} is a file; choose a folder.")
    elif folder.exists() and any(not _ours(item) for item in folder.iterdir()):
        raise InputError(f"output={folder} is not empty and holds no run; choose another folder.")


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold the run directory, made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output={folder} cannot be made ({error.strerror}); choose another folder.") from error
    with locked(folder):
        yield


@contextmanager
def _working(session: Session, bench: Bench, workers: RayWorkers | None) -> Iterator[None]:
    """Have the session's work shared out while the context lasts."""
    with ExitStack() as stack:
        if workers is None:
            session.workers = LocalExecutor(SessionWorker(session, bench))
        else:
            opens, gpus = OpenSession.of(session, workers.threads), session.device.type == "cuda"
            session.workers = stack.enter_context(workers.start(opens, gpus=gpus))
        stack.callback(setattr, session, "workers", None)
        yield


def _ours(item: Path) -> bool:
    """Whether a file may lie in a run directory whose recipe has not been written yet."""
    return item.name == ".lock" or is_leftover(item)


def _contestants(session: Session) -> tuple[Contestant, ...]:
    """The dense model, the compared schedules, and the recipe's own at the end; all but the first under the cache."""
    recipe, space, bank = session.recipe, session.space, session.bank
    uniform = bank.uniform_allocation()
    entries = []
    if session.cache is not None:
        entries.append(Contestant("unpruned", "The model as it is, unpruned."))
    for name in recipe.evaluation.compare:
        if name == "uniform":
            schedule = uniform.resolve(space.uniform())
            entries.append(Contestant(name, "The same level in every stage and layer.", schedule, bank))
        elif name == "three-stage":
            schedule = uniform.resolve(three_stage(session.plan, space))
            entries.append(Contestant(name, "Three hand-made stages, our reading of MosaicDiff.", schedule, bank))
        elif recipe.search.allocation != "uniform":
            entries.append(_searched(session, "uniform"))
    entries.append(_searched(session, recipe.search.allocation))
    return (Contestant(DENSE, "The model as it is."), *(_with_cache(entry, session.cache) for entry in entries))


def _with_cache(entry: Contestant, cache: Cache | None) -> Contestant:
    if cache is None:
        return entry
    return replace(entry, description=f"{entry.description} With {cache}.", cache=cache)


def _searched(session: Session, allocation: str) -> Contestant:
    spent = {
        "uniform": "the same share of every layer",
        "sensitivity": "spent on the layers that matter least",
    }
    found = _FOUND.get(session.recipe.search.algorithm, f"found by {session.recipe.search.algorithm}")
    description = f"Stage levels {found}, {spent[allocation]}."
    name, schedule = search_name(session, allocation), session.schedule(allocation)
    return Contestant(name, description, schedule, session.bank, search=allocation)


def search_name(session: Session, allocation: str) -> str:
    """Name of a search's schedule: "searched, sensitivity", or of another algorithm "greedy, sensitivity"."""
    algorithm = session.recipe.search.algorithm
    return f"{'searched' if algorithm == 'evolution' else algorithm}, {allocation}"


def _evaluation(session: Session, bench: Bench, contestants: tuple[Contestant, ...]) -> Evaluation:
    path = session.folder / "evaluation.json"
    if not path.exists():
        evaluate(session, bench, contestants).write(path)
    return Evaluation.read(path)
