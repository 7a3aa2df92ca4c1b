"""The main job: a recipe from start to end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diff_es import zoo
from diff_es.artifacts import locked, write_bytes
from diff_es.bank import Pruned
from diff_es.baselines import three_stage
from diff_es.errors import InputError
from diff_es.evaluation import Evaluation
from diff_es.recipe import Recipe
from diff_es.report import FitnessPoint, ReportContent, write_report
from diff_es.run.measure import DENSE, Bench, Contestant, evaluate
from diff_es.run.session import Session
from diff_es.sampling import Requests, class_labels, sample

if TYPE_CHECKING:
    from diff_es.search import SearchResult

_GRID = 10


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


def compress(recipe: Recipe, folder: Path, *, resume: bool = False, command: str = "") -> RunResult:
    """Prune a model as a recipe says, measure the result, and write everything to a folder.

    Args:
        recipe: What to do.
        folder: The run directory; it must be new unless `resume`.
        resume: Go on with a run of the same recipe that was stopped, at whatever moment.
        command: The command line to print in the report.

    Raises:
        InputError: the folder is taken, the recipe differs from the one that the run was started with, or the recipe
            cannot be carried out.
    """
    _claim(recipe, folder, resume=resume)
    with locked(folder):
        session = Session(recipe, folder)
        result = session.search(recipe.search.allocation)
        pruned = session.pruned()
        contestants = _contestants(session)
        evaluation = _evaluation(session, contestants)
        report = write_report(folder, _report_content(session, contestants, evaluation, command))
        return RunResult(folder, pruned, result, evaluation, report)


def _claim(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Write the resolved recipe to a new folder, or check that it is the same in an old one."""
    path = folder / "recipe.yaml"
    if path.exists():
        if not resume:
            raise InputError(f"{folder} holds a run already; go on with it by --resume, or choose another folder.")
        if Recipe.read(path) != recipe:
            raise InputError(f"{folder} was started with another recipe ({path}); resume with that one.")
        return
    if folder.exists() and any(item.name != ".lock" for item in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no run; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, recipe.dump().encode())


def _contestants(session: Session) -> tuple[Contestant, ...]:
    """The dense model, the compared schedules, and the recipe's own at the end."""
    recipe, space = session.recipe, session.space
    uniform = session.bank.uniform_allocation()
    entries = [Contestant(DENSE, "The model as it is.", None)]
    for name in recipe.evaluation.compare:
        if name == "uniform":
            entries.append(
                Contestant(name, "The same level in every stage and layer.", uniform.resolve(space.uniform()))
            )
        elif name == "three-stage":
            levels = three_stage(session.plan, space)
            entries.append(
                Contestant(name, "Three hand-made stages, our reading of MosaicDiff.", uniform.resolve(levels))
            )
        elif recipe.search.allocation != "uniform":
            entries.append(_searched(session, "uniform"))
    return (*entries, _searched(session, recipe.search.allocation))


def _searched(session: Session, allocation: str) -> Contestant:
    words = {
        "uniform": "Stage levels found by the search, the same share of every layer (the paper's method).",
        "sensitivity": "Stage levels found by the search, spent on the layers that matter least.",
    }
    return Contestant(f"searched, {allocation}", words[allocation], session.schedule(allocation))


def _evaluation(session: Session, contestants: tuple[Contestant, ...]) -> Evaluation:
    path = session.folder / "evaluation.json"
    if not path.exists():
        evaluate(session, contestants).write(path)
    return Evaluation.read(path)


def _report_content(
    session: Session, contestants: tuple[Contestant, ...], evaluation: Evaluation, command: str
) -> ReportContent:
    recipe = session.recipe
    searches = [entry.name.removeprefix("searched, ") for entry in contestants if entry.name.startswith("searched")]
    labels = class_labels(session.pipe)[:_GRID]
    grid = Requests.cycle(labels, len(labels), session.evaluation_probes().seeds[0])
    bench = Bench(session)
    images = {}
    for entry in contestants:
        with bench.running(entry):
            images[entry.name] = sample(session.pipe, grid, session.sampler).permute(0, 2, 3, 1).numpy()
    fashion = recipe.model.startswith("zoo:fashion")
    return ReportContent(
        title=f"{recipe.model.removeprefix('zoo:')}: {recipe.search.sparsity:.0%} of the prunable MACs removed",
        evaluation=evaluation,
        schedules={entry.name: entry.schedule for entry in contestants if entry.schedule is not None},
        history={f"searched, {name}": _points(session.search(name)) for name in searches},
        fitness=f"{recipe.search.metric} on {recipe.search.probes} probes",
        images=images,
        columns=tuple(zoo.CLASS_NAMES[label] if fashion else str(label) for label in labels),
        recipe=recipe.dump(),
        command=command or shlex.join(["diff-es", "run", "recipe.yaml", "--output", session.folder.name]),
    )


def _points(result: SearchResult) -> tuple[FitnessPoint, ...]:
    return tuple(
        FitnessPoint(record.generation, record.population.best, record.population.mean, record.population.worst)
        for record in result.history
        if record.population.best is not None
        and record.population.mean is not None
        and record.population.worst is not None
    )
