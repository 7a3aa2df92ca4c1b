"""The columns of a table's files: what each is called, its unit, and what the paper has in its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.evaluation import speedup
from diff_es.reproduce.claims import runtime

if TYPE_CHECKING:
    from diff_es.reproduce.result import RowResult, TableResult


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        ours: Measured here; None where it was not.
        interval: Its 95 % interval, or what the column says; None where there is none.
        paper: The paper's value, None where it has none.
    """

    ours: float | None
    interval: tuple[float, float] | None = None
    paper: float | None = None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Its name in files.
        title: Its heading.
        form: How our values are written, a format.
        higher_is_better: The direction; None where there is none.
        paper: What the paper's values in it are; empty where it has none.
        cell: Row → its value.
        interval_title: What the intervals are, as in `TableColumn`.
    """

    key: str
    title: str
    form: str
    higher_is_better: bool | None
    paper: str
    cell: Callable[[RowResult], Cell]
    interval_title: str = "95%"


#: What latencies have in place of a 95 % interval: the spread of the timed runs.
PERCENTILES = "p10–p90"

#: Metric → heading, format, and the paper's metric that it stands for.
_METRICS = {
    "classifier_frechet": ("Fréchet distance on classifier features", ".2f", "FID"),
    "classifier_inception_score": ("Inception-score analogue on the classifier", ".2f", "IS"),
    "classifier_precision": ("Precision on classifier features", ".3f", "precision"),
    "classifier_recall": ("Recall on classifier features", ".3f", "recall"),
    "fid": ("FID", ".2f", "FID"),
    "inception_score": ("Inception score", ".1f", "IS"),
    "precision": ("Precision", ".3f", "precision"),
    "recall": ("Recall", ".3f", "recall"),
    "ssim": ("SSIM to dense", ".3f", ""),
    "latent_mse": ("Latent MSE to dense", ".4f", ""),
    "label_agreement": ("Label agreement", ".1%", "CLIP score"),
}


def columns(result: TableResult) -> tuple[Column, ...]:
    """Return the columns that the rows of a result have values for."""
    quality = tuple(_quality(own.metric, own.higher_is_better, result) for own in result.rows[0].quality)
    return (*quality, _macs(result), *_latency(result), *_effort(result))


def _quality(metric: str, higher_is_better: bool, result: TableResult) -> Column:
    title, form, paper = _METRICS.get(metric, (metric, ".4g", ""))
    if not any(paper in row.paper for row in result.rows):
        paper = ""

    def cell(row: RowResult) -> Cell:
        own = row.measurement(metric)
        return Cell(None) if own is None else Cell(own.value, own.interval, row.paper.get(paper))

    return Column(metric, title, form, higher_is_better, paper, cell)


def _macs(result: TableResult) -> Column:
    whole = result.rows[0].paper.get("MACs")

    def cell(row: RowResult) -> Cell:
        theirs = row.paper.get("MACs")
        return Cell(row.cost.macs_ratio, paper=round(theirs / whole, 3) if theirs and whole else None)

    return Column("macs_ratio", "MACs, share of dense", ".1%", False, "MACs", cell)


def _latency(result: TableResult) -> tuple[Column, ...]:
    """Times and speed-ups of whole pipeline calls, at every batch size that was measured."""
    dense = result.rows[0].cost
    sizes = [entry.batch_size for entry in dense.latency if entry.scope == "pipeline"]
    return tuple(column for size in sizes for column in (_milliseconds(size), _speedup(size, result)))


def _milliseconds(size: int) -> Column:
    def cell(row: RowResult) -> Cell:
        if not row.cost.latency:
            return Cell(None)
        own = row.cost.latency_of(size)
        return Cell(own.median_ms, (own.p10_ms, own.p90_ms))

    return Column(
        f"latency_ms_batch_{size}", f"Latency, batch {size}, ms (p10 to p90)", ".1f", False, "", cell, PERCENTILES
    )


def _speedup(size: int, result: TableResult) -> Column:
    dense = result.rows[0].cost.latency_of(size)

    def cell(row: RowResult) -> Cell:
        ours = speedup(dense, row.cost.latency_of(size)) if row.cost.latency else None
        return Cell(ours, paper=row.paper.get("speed-up") if size == 8 else None)

    return Column(f"speedup_batch_{size}", f"Measured speed-up, batch {size}", ".2f", True, "speed-up", cell)


def _effort(result: TableResult) -> tuple[Column, ...]:
    """What the searches took."""
    if not any(row.searches for row in result.rows):
        return ()

    def evaluated(row: RowResult) -> Cell:
        return Cell(_mean([own.evaluated for own in row.searches]))

    def seconds(row: RowResult) -> Cell:
        hours = row.paper.get("hours")
        return Cell(_mean([own.search_seconds for own in row.searches]), paper=hours * 3600 if hours else None)

    def whole(row: RowResult) -> Cell:
        seconds = runtime(row) if row.searches else math.nan
        return Cell(None if math.isnan(seconds) else seconds)  # unknown where the bank was made in several goes

    return (
        Column("evaluated", "Schedules evaluated", ".0f", None, "", evaluated),
        Column("search_seconds", "Time of one search, s", ".0f", None, "time, s", seconds),
        Column("runtime_seconds", "Bank and search, s", ".0f", None, "", whole),
    )


def _mean(values: list[float] | list[int]) -> float | None:
    return sum(values) / len(values) if values else None
