"""The report of a table: its result as the report room shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.evaluation import DENSE
from diff_es.report import (
    Claim,
    Provenance,
    TableColumn,
    TableReport,
    TableRow,
    Value,
)
from diff_es.reproduce.claims import timed
from diff_es.reproduce.columns import PERCENTILES, columns
from diff_es.reproduce.plots import plots
from diff_es.run.show import fitness_points, gallery, licences

if TYPE_CHECKING:
    from diff_es.reproduce.columns import Column
    from diff_es.reproduce.result import ClaimResult, RowResult, TableResult
    from diff_es.reproduce.scale import Scale
    from diff_es.reproduce.table import Table
    from diff_es.reproduce.workspace import Workspace

#: Rows whose images are shown; more would make the report too large for a phone.
_SHOWN = 8


def table_report(table: Table, scale: Scale, result: TableResult, workspace: Workspace) -> TableReport:
    """Gather everything that the report of a table shows."""
    shown = [column for column in columns(result) if any(column.cell(row).ours is not None for row in result.rows)]
    recipes = {row.name: row.recipes(scale)[0] for row in table.rows}
    first = next(iter(recipes.values()))
    pictured = list(recipes)[-_SHOWN:]
    samples = {DENSE: workspace.dense_samples(first), **{name: workspace.samples(recipes[name]) for name in pictured}}
    requests = workspace.session(first).evaluation_images()
    return TableReport(
        title=table.title,
        introduction=(table.introduction, result.protocol.text),
        columns=tuple(
            TableColumn(own.key, own.title, own.higher_is_better, own.form, "", own.paper, own.interval_title)
            for own in shown
        ),
        rows=tuple(_row(row, shown) for row in result.rows),
        protocol=result.protocol,
        environment=result.environment,
        claims=tuple(_claim(claim, shown) for claim in result.claims),
        plots=plots(result),
        schedules={name: workspace.schedule(recipe) for name, recipe in recipes.items()},
        history={
            name: fitness_points(workspace.session(recipe).search(recipe.search.allocation))
            for name, recipe in recipes.items()
            if len(workspace.session(recipe).search(recipe.search.allocation).history) > 1
        },
        fitness=f"{first.search.metric} on {first.search.probes} probes",
        gallery=gallery(samples, requests, fashion=first.model.startswith("zoo:fashion")),
        provenance=Provenance(
            command=result.command,
            recipe=first.dump(),
            notes=(scale.description + ".",),
            licences=licences(first.model, first.search.metric),
        ),
    )


def _row(row: RowResult, shown: list[Column]) -> TableRow:
    values = {}
    for column in shown:
        cell = column.cell(row)
        values[column.key] = Value(cell.ours, cell.interval, cell.paper)
    searches = f"{len(row.searches)} searches" if len(row.searches) > 1 else ""
    return TableRow(row.name, values, group=row.group, description=searches, is_reference=row.name == DENSE)


def _claim(claim: ClaimResult, shown: list[Column]) -> Claim:
    titles = {column.key: column.title for column in shown}
    metric = titles.get(claim.metric, claim.metric)
    return Claim(
        sentence=f"{claim.better} is better than {claim.worse} by {claim.paper_metric or metric}.",
        better=claim.better,
        worse=claim.worse,
        metric=metric,
        ours=claim.ours,
        higher_is_better=claim.higher_is_better,
        interval=claim.interval,
        paper=claim.paper,
        paper_metric=claim.paper_metric if claim.paper else "",
        examination=claim.examination,
        interval_title=PERCENTILES if timed(claim) else "95%",
    )
