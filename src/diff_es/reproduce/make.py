"""Make a table: search and measure every row, compare what the paper compares, and keep the result as one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from diff_es.artifacts import held, read_record, write_record
from diff_es.evaluation import (
    DENSE,
    Cost,
    Environment,
    Measurement,
    MemoryRecord,
    Protocol,
    Quality,
    compare_memory,
    environment,
    measurements,
)
from diff_es.evaluation.quality import AGREEMENT, bounds_of
from diff_es.evaluation.records import Samples
from diff_es.reproduce.claims import cost_claim, examined, judge_claim, pooled
from diff_es.reproduce.result import ClaimResult, RowResult, TableResult
from diff_es.run.measure import Contestant
from diff_es.schedule import PruningSchedule

if TYPE_CHECKING:
    from diff_es.evaluation import Judge
    from diff_es.recipe import Recipe
    from diff_es.reproduce.scale import Scale
    from diff_es.reproduce.table import Row, Table
    from diff_es.reproduce.workspace import Workspace

#: Metrics of the paper → the fidelity metrics of ours that stand for themselves.
_OWN = {"SSIM": "ssim", "MSE": "latent_mse"}
#: Timed runs of every row at every batch size.
_REPEATS = 20
#: Images that are generated while memory is measured.
_MEMORY_BATCH = 8


@dataclass(frozen=True)
class Made:
    """A row with everything that was made of it.

    Attributes:
        row: Its definition.
        recipes: One per search.
        qualities: The quality of each search's schedule.
    """

    row: Row
    recipes: tuple[Recipe, ...]
    qualities: tuple[Quality, ...]


def make(table: Table, scale: Scale, workspace: Workspace, command: str) -> TableResult:
    """Make a table, going on where an earlier run stopped.

    Args:
        table: What to make.
        scale: At which scale.
        workspace: Where everything is kept.
        command: The command line, for the record.
    """
    recipes = {row.name: row.recipes(scale) for row in table.rows}
    every = [recipe for own in recipes.values() for recipe in own]
    workspace.search_all(every)
    workspace.sample_all(every)
    made = tuple(
        Made(row, recipes[row.name], tuple(workspace.quality(recipe) for recipe in recipes[row.name]))
        for row in table.rows
    )
    dense = workspace.dense_quality(every[0])
    measured = _costs(table, made, workspace)
    costs = measured.costs
    rows = (
        _dense_row(table, every[0], dense, costs[DENSE], workspace),
        *(_row(own, costs[own.row.name], workspace) for own in made),
    )
    memory = _memory(table, recipes, workspace)
    return TableResult(
        table=table.name,
        scale=scale.name,
        rows=rows,
        claims=_claims(table, made, rows, memory, workspace.judge),
        memory=memory,
        protocol=_protocol(scale, every[0], workspace),
        environment=measured.environment,
        command=command,
    )


def _row(made: Made, cost: Cost, workspace: Workspace) -> RowResult:
    first = made.recipes[0]
    return RowResult(
        name=made.row.name,
        group=made.row.group,
        sparsity=first.search.sparsity,
        quality=_pooled_measurements(made.qualities, first, workspace),
        cost=cost,
        searches=tuple(workspace.effort(recipe) for recipe in made.recipes),
        paper=dict(made.row.paper),
    )


def _dense_row(table: Table, recipe: Recipe, quality: Quality, cost: Cost, workspace: Workspace) -> RowResult:
    measured = _pooled_measurements((quality,), recipe, workspace)
    return RowResult(DENSE, "dense", 0.0, measured, cost, (), dict(table.dense))


def _pooled_measurements(qualities: Sequence[Quality], recipe: Recipe, workspace: Workspace) -> tuple[Measurement, ...]:
    """The records of the first search, with value and interval over all of them."""
    session = workspace.session(recipe)
    requests, bench = session.evaluation_images(), workspace.bench(recipe)
    samples = Samples(len(requests), requests.seeds[0])
    first = measurements(qualities[0], workspace.judge, samples, session.sampler, str(bench.device))
    return tuple(_over_searches(own, qualities, workspace.judge) for own in first)


def _over_searches(own: Measurement, qualities: Sequence[Quality], judge: Judge | None) -> Measurement:
    together = pooled(qualities, own.metric)
    return replace(own, value=together.value, interval=together.interval(bounds_of(own.metric, judge)))


def _costs(table: Table, made: Sequence[Made], workspace: Workspace) -> _Costs:
    """Measure what the first schedule of each row costs; times alternate, so they are taken together or not at all."""
    settings = {
        "rows": {own.row.name: _pruned(own.recipes[0], workspace) for own in made},
        "latency": table.latency,
        "scopes": table.scopes,
        "repeats": _REPEATS,
    }
    device = workspace.bench(made[0].recipes[0]).device
    path = workspace.costs_file(table.name, settings, device)
    with held(path.with_suffix(".lock"), wait=True):
        if not path.exists():
            write_record(path, _Costs(_measured_costs(table, made, workspace), environment(device)))
    return read_record(path, _Costs)


def _pruned(recipe: Recipe, workspace: Workspace) -> list[Any]:
    """What the cost of a recipe's schedule depends on: its search and its cache by their folder, and what was found."""
    schedule = TypeAdapter(PruningSchedule).dump_python(workspace.schedule(recipe), mode="json")
    return [workspace.image_folder(recipe).relative_to(workspace.folder).as_posix(), schedule]


def _measured_costs(table: Table, made: Sequence[Made], workspace: Workspace) -> dict[str, Cost]:
    """Rows with another sampler than the first are counted with their own, as a share of the table's dense model.

    They are not timed: they would not alternate with the others.
    """
    alike: dict[str, list[Made]] = {}
    for own in made:
        alike.setdefault(own.recipes[0].sampler.model_dump_json(), []).append(own)
    timed, *untimed = alike.values()
    first = _costs_alike(table, timed, workspace, table.latency)
    others = [_costs_alike(table, rows, workspace, ()) for rows in untimed]
    dense = first[DENSE].macs
    for costs in others:
        first |= {name: replace(cost, macs_ratio=cost.macs / dense) for name, cost in costs.items() if name != DENSE}
    return first


def _costs_alike(table: Table, made: Sequence[Made], workspace: Workspace, latency: tuple[int, ...]) -> dict[str, Cost]:
    """Measure rows of one sampler."""
    recipe = made[0].recipes[0]
    entries, plans = [Contestant(DENSE, "")], {DENSE: workspace.session(recipe).plan}
    for own in made:
        entries.append(workspace.contestant(own.row.name, own.recipes[0]))
        plans[own.row.name] = workspace.session(own.recipes[0]).plan
    bench = workspace.bench(recipe)
    return bench.costs(tuple(entries), plans, latency, _REPEATS, scopes=table.scopes)


@dataclass(frozen=True)
class _Costs:
    """Row → cost, as it is kept between runs, and where it was measured."""

    costs: dict[str, Cost]
    environment: Environment


@dataclass(frozen=True)
class _Memory:
    """Setting → memory, as it is kept between runs, and where it was measured."""

    memory: dict[str, MemoryRecord]
    environment: Environment


def _memory(table: Table, recipes: Mapping[str, Sequence[Recipe]], workspace: Workspace) -> dict[str, MemoryRecord]:
    """Measure the memory of the row that the table names, in every setting."""
    if not table.memory:
        return {}
    recipe = recipes[table.memory][0]
    session = workspace.session(recipe)
    settings = {"row": _pruned(recipe, workspace), "batch_size": _MEMORY_BATCH}
    path = workspace.costs_file(f"{table.name}-memory", settings, session.device)
    with held(path.with_suffix(".lock"), wait=True):
        if not path.exists():
            found: dict[Any, MemoryRecord] = dict(
                compare_memory(
                    recipe.model,
                    session.stock / "bank",
                    workspace.schedule(recipe),
                    _MEMORY_BATCH,
                    sampler=session.sampler,
                    device=str(session.device),
                )
            )
            write_record(path, _Memory(found, environment(session.device)))
    return read_record(path, _Memory).memory


def _claims(
    table: Table,
    made: Sequence[Made],
    rows: Sequence[RowResult],
    memory: Mapping[str, MemoryRecord],
    judge: Judge | None,
) -> tuple[ClaimResult, ...]:
    qualities = {own.row.name: own.qualities for own in made}
    by_name = {row.name: row for row in rows}
    known = metric_names(judge)
    results = []
    for claim in table.claims:
        result = cost_claim(claim, by_name, memory)
        if result is None:
            metric = known[claim.metric]
            record = by_name[claim.better].measurement(metric)
            assert record is not None  # all rows have the same metrics
            result = judge_claim(claim, metric, qualities, by_name, higher_is_better=record.higher_is_better)
        results.append(result)
    return examined(results, by_name, made[0].recipes[0].search.metric)


def metric_names(judge: Judge | None) -> dict[str, str]:
    """Metric of the paper → metric that stands for it here."""
    prompts = {"CLIP score": AGREEMENT} if judge and judge.knows_labels else {}
    return {
        **_OWN,
        **prompts,
        **dict(zip(("FID", "IS", "precision", "recall"), judge.names if judge else (), strict=False)),
    }


def _protocol(scale: Scale, recipe: Recipe, workspace: Workspace) -> Protocol:
    session = workspace.session(recipe)
    judge, images = workspace.judge, recipe.evaluation.images
    compared = f" Distributions are compared with {judge.reference_name}." if judge else ""
    return Protocol(
        name=f"table, {images} images",
        model=recipe.model,
        scheduler=type(session.pipe.scheduler).__name__,
        sampling=session.sampler,
        text=(
            f"{scale.description}. Every row is measured on the same {images:,} labels or prompts and seeds, "
            f"which no search saw; searched rows are means over {len(scale.seeds)} searches, each with a seed and "
            f"probes of its own.{compared} Intervals are 95 % bootstrap intervals over searches and images, paired "
            "between rows. "
            "MACs count the matrix products of all denoiser calls for one image, guidance included."
        ),
    )
