"""The tables of an evaluation: quality, cost, latency by batch size, and what each number was measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.evaluation import describe_speedup
from diff_es.report.grid import RANGE, Cell, Grid, GridRow, Heading, best_text, direction
from diff_es.report.latency import SCOPE_NAMES, Timed, main_latency, speedup_at, timed
from diff_es.report.metric_names import metric_name, number

if TYPE_CHECKING:
    from diff_es.evaluation import Evaluation, LatencyRecord, ScheduleEvaluation
    from diff_es.evaluation.records import Measurement


@dataclass(frozen=True)
class _Column:
    """How one column is made: heading, direction, value to compare, cell to show, and what is never called best."""

    title: str
    higher_is_better: bool
    value: Callable[[ScheduleEvaluation], float | None]
    text: Callable[[ScheduleEvaluation], str]
    details: Callable[[ScheduleEvaluation], tuple[str, ...]] = lambda _: ()
    never_best: Callable[[ScheduleEvaluation], bool] = lambda _: False


def quality_grid(evaluation: Evaluation) -> Grid:
    """One row per schedule, one column per metric, intervals below the values."""
    columns = tuple(_metric_column(own) for own in evaluation.dense.quality)
    return _grid("Quality", evaluation, columns)


def cost_grid(evaluation: Evaluation) -> Grid:
    """One row per schedule: multiply-adds, parameters, latency and speed-up where they were measured."""
    columns = [
        _Column(
            "Multiply-adds per image",
            False,
            lambda s: s.cost.macs,
            lambda s: f"{s.cost.macs_ratio:.1%}",
            lambda s: (in_units(s.cost.macs, "MACs"),),
        ),
        _Column("Parameters that a call uses", False, _mean_parameters, _parameters, _parameter_range),
    ]
    at = main_latency(evaluation)
    if at is not None:
        columns += _latency_columns(evaluation, at)
    return _grid("Cost", evaluation, tuple(columns))


def latency_grid(evaluation: Evaluation) -> Grid:
    """One column per batch size; the rows are the schedules, once for each scope."""
    entries = timed(evaluation)
    batches = sorted({entry.batch_size for entry in entries})
    rows = [
        GridRow(
            schedule.name,
            "",
            tuple(_latency_cell(evaluation, schedule, Timed(batch, scope), entries) for batch in batches),
            schedule.is_dense,
            SCOPE_NAMES[scope],
        )
        for scope in SCOPE_NAMES
        if scope in {entry.scope for entry in entries}
        for schedule in evaluation.schedules
    ]
    headings = tuple(Heading(f"batch {batch}", "median, p10–p90") for batch in batches)
    return Grid("Latency by batch size", "Schedule", headings, tuple(rows))


def measurement_grid(evaluation: Evaluation) -> Grid:
    """One row per metric: what it was computed by, on how many samples, against what."""
    headings = tuple(map(Heading, ("Computed by", "Samples", "Compared with", "Weights, sha256")))
    rows = tuple(
        GridRow(
            metric_name(own.metric).title,
            direction(own.higher_is_better),
            (
                Cell(own.computed_by),
                Cell(f"{own.samples.count:,}", (f"seeds {own.samples.first_seed}{RANGE}{own.samples.seeds[-1]}",)),
                Cell(own.reference or "nothing"),
                Cell(own.weights or "none"),
            ),
        )
        for own in evaluation.dense.quality
    )
    return Grid("What each number was measured by", "Metric", headings, rows)


def in_units(count: float, unit: str) -> str:
    """Write a count with a decimal prefix ("1.24 GMACs")."""
    for factor, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        # From 999.5 on, three digits round up to the next prefix.
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}".rstrip()


def interval_text(interval: tuple[float, float], form: str, title: str = "95%") -> str:
    """Write an interval, by default a 95 % one."""
    low, high = (number(end, form) for end in interval)
    # Spaces that no line breaks at.
    return f"{title}: {low}\u00a0to\u00a0{high}"


def milliseconds(value: float) -> str:
    """Write a time with three digits or a little more ("0.46", "12.3", "1530")."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _grid(caption: str, evaluation: Evaluation, columns: tuple[_Column, ...]) -> Grid:
    pruned = [schedule for schedule in evaluation.schedules if not schedule.is_dense]
    bests = [
        best_text([(column.value(s), column.text(s)) for s in pruned], column.higher_is_better) for column in columns
    ]
    rows = tuple(
        GridRow(schedule.name, schedule.description, _cells(schedule, columns, bests), schedule.is_dense)
        for schedule in evaluation.schedules
    )
    headings = tuple(Heading(column.title, direction(column.higher_is_better)) for column in columns)
    return Grid(caption, "Schedule", headings, rows)


def _cells(schedule: ScheduleEvaluation, columns: tuple[_Column, ...], bests: list[str | None]) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            text := column.text(schedule),
            details := column.details(schedule),
            not schedule.is_dense and text == best and not column.never_best(schedule),
            any(detail.startswith("slower") for detail in details),
        )
        for column, best in zip(columns, bests, strict=True)
    )


def _metric_column(like: Measurement) -> _Column:
    name = metric_name(like.metric)

    def own(schedule: ScheduleEvaluation) -> Measurement:
        return next(found for found in schedule.quality if found.metric == like.metric)

    def details(schedule: ScheduleEvaluation) -> tuple[str, ...]:
        interval = own(schedule).interval
        return (interval_text(interval, name.form),) if interval else ()

    return _Column(
        name.title, like.higher_is_better, lambda s: own(s).value, lambda s: name.text(own(s).value), details
    )


def _latency_columns(evaluation: Evaluation, at: Timed) -> tuple[_Column, ...]:
    def record(schedule: ScheduleEvaluation) -> LatencyRecord:
        return schedule.cost.latency_of(at.batch_size, at.scope)

    def ratio(schedule: ScheduleEvaluation) -> float:
        return speedup_at(evaluation, schedule, at)

    def slower(schedule: ScheduleEvaluation) -> bool:
        return round(ratio(schedule), 2) < 1

    return (
        _Column(
            f"Latency, batch {at.batch_size}",
            False,
            lambda s: record(s).median_ms,
            lambda s: f"{milliseconds(record(s).median_ms)} ms",
            lambda s: (_spread(record(s)),),
            slower,
        ),
        _Column(
            f"Measured speed-up, batch {at.batch_size}",
            True,
            ratio,
            lambda s: "reference" if s.is_dense else f"{ratio(s):.2f}×",
            lambda s: (describe_speedup(ratio(s)),) if slower(s) else (),
            slower,
        ),
    )


def _latency_cell(evaluation: Evaluation, schedule: ScheduleEvaluation, at: Timed, entries: tuple[Timed, ...]) -> Cell:
    if at not in entries:
        return Cell("not measured")
    record = schedule.cost.latency_of(at.batch_size, at.scope)
    text, spread = f"{milliseconds(record.median_ms)} ms", _spread(record)
    if schedule.is_dense:
        return Cell(text, (spread,))
    ratio = speedup_at(evaluation, schedule, at)
    return Cell(text, (spread, describe_speedup(ratio)), warn=round(ratio, 2) < 1)


def _spread(record: LatencyRecord) -> str:
    return f"p10–p90: {milliseconds(record.p10_ms)}{RANGE}{milliseconds(record.p90_ms)}"


def _mean_parameters(schedule: ScheduleEvaluation) -> float:
    used = schedule.cost.parameters_per_stage
    return sum(used) / len(used) if used else schedule.cost.parameters


def _parameters(schedule: ScheduleEvaluation) -> str:
    return f"{_mean_parameters(schedule) / schedule.cost.parameters:.1%}"


def _parameter_range(schedule: ScheduleEvaluation) -> tuple[str, ...]:
    used = schedule.cost.parameters_per_stage
    if not used:
        return (in_units(schedule.cost.parameters, ""),)
    return (f"{in_units(min(used), '')} to {in_units(max(used), '')} by stage",)
