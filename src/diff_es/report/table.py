"""The comparison table: each value as text, the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.evaluation import describe_speedup, speedup

if TYPE_CHECKING:
    from diff_es.evaluation import Evaluation, ScheduleEvaluation


#: An en dash that no line breaks at.
_RANGE = "\u2060–\u2060"


@dataclass(frozen=True)
class Cell:
    """One value of the table.

    Attributes:
        text: The value.
        detail: A second, smaller line; may be empty.
        best: Whether no schedule is better in this column and some is worse; the dense model takes no part.
    """

    text: str
    detail: str
    best: bool


@dataclass(frozen=True)
class Row:
    """One schedule: its name, how it came about, and one cell per column."""

    name: str
    description: str
    is_dense: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """How one column of the table is made.

    Attributes:
        title: Heading.
        higher_is_better: Which value is marked.
        value: What is compared.
        text: What is written.
        detail: What is written smaller below.
    """

    title: str
    higher_is_better: bool
    value: Callable[[ScheduleEvaluation], float]
    text: Callable[[ScheduleEvaluation], str]
    detail: Callable[[ScheduleEvaluation], str] = lambda _: ""

    @property
    def direction(self) -> str:
        """The direction in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


def columns(evaluation: Evaluation) -> tuple[Column, ...]:
    """The columns; the speed-up is of medians against the dense model of this evaluation."""
    dense = evaluation.dense.latency

    def ratio(schedule: ScheduleEvaluation) -> float:
        return speedup(dense, schedule.latency)

    return (
        Column("SSIM to dense", True, lambda s: s.ssim, lambda s: number(s.ssim, ".3f")),
        Column("Latent MSE to dense", False, lambda s: s.latent_mse, lambda s: number(s.latent_mse, ".4f")),
        Column(
            "Label agreement", True, lambda s: _known(s.label_agreement), lambda s: number(s.label_agreement, ".1%")
        ),
        Column(
            "Fréchet distance on classifier features",
            False,
            lambda s: _known(s.classifier_frechet),
            lambda s: number(s.classifier_frechet, ".2f"),
        ),
        Column(
            "Multiply-adds per image",
            False,
            lambda s: s.macs,
            lambda s: f"{s.macs_ratio:.1%}",
            lambda s: in_units(s.macs),
        ),
        Column(
            "Latency, median",
            False,
            lambda s: s.latency.median_ms,
            lambda s: f"{s.latency.median_ms:.1f} ms",
            lambda s: f"p10–p90: {s.latency.p10_ms:.1f}{_RANGE}{s.latency.p90_ms:.1f}",
        ),
        Column(
            "Measured speed-up",
            True,
            ratio,
            lambda s: "reference" if s.is_dense else f"{ratio(s):.2f}×",
            lambda s: "" if s.is_dense else _slower(ratio(s)),
        ),
    )


def rows(evaluation: Evaluation) -> tuple[Row, ...]:
    """One row per schedule, in the order of the evaluation."""
    made = columns(evaluation)
    bests = [_best(column, evaluation) for column in made]
    return tuple(
        Row(schedule.name, schedule.description, schedule.is_dense, _cells(schedule, made, bests))
        for schedule in evaluation.schedules
    )


def number(value: float | None, form: str) -> str:
    """Format a number; a missing or broken measurement is called what it is."""
    if value is None:
        return "not measured"
    return format(value, form) if math.isfinite(value) else "not finite"


def in_units(macs: int) -> str:
    """Write a count of multiply-adds with a decimal prefix ("1.24 G")."""
    for factor, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if macs >= factor:
            return f"{macs / factor:.3g} {prefix}MACs"
    return f"{macs} MACs"


def _cells(schedule: ScheduleEvaluation, made: tuple[Column, ...], bests: list[str | None]) -> tuple[Cell, ...]:
    # Compared as written: values that look equal are marked alike.
    return tuple(
        Cell(text := column.text(schedule), column.detail(schedule), not schedule.is_dense and text == best)
        for column, best in zip(made, bests, strict=True)
    )


def _best(column: Column, evaluation: Evaluation) -> str | None:
    """The text of the best finite value; None where nothing is better than anything else."""
    pruned = [s for s in evaluation.schedules if not s.is_dense and math.isfinite(column.value(s))]
    if len({column.text(schedule) for schedule in pruned}) < 2:
        return None
    return column.text((max if column.higher_is_better else min)(pruned, key=column.value))


def _known(value: float | None) -> float:
    """A missing value is never the best one."""
    return math.nan if value is None else value


def _slower(value: float) -> str:
    return describe_speedup(value) if round(value, 2) < 1 else ""
