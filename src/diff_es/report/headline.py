"""A run in one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diff_es.evaluation import describe_speedup
from diff_es.report.latency import main_latency, speedup_at, timed
from diff_es.report.metric_names import metric_name

if TYPE_CHECKING:
    from diff_es.evaluation import Evaluation, ScheduleEvaluation


def headline(evaluation: Evaluation) -> str:
    """One sentence on the best schedule: what it keeps, what it saves, how fast it was measured, where it is slower."""
    # A row under a cache may be unpruned: all its levels are 0.
    pruned = [schedule for schedule in evaluation.schedules if any(schedule.levels or ())]
    if not pruned:
        return "No schedule was evaluated, only the dense model."
    metric = main_metric(evaluation)
    if metric is None:
        return f"Schedules: {len(pruned)}. No quality was measured."
    schedule = _best(evaluation, metric, pruned)
    name = metric_name(metric)
    quality = f"{name.title.removesuffix(' to dense')} {name.text(schedule.value(metric))}"
    praise = "stays nearest to dense" if metric == "ssim" else "is best"
    share = f"{schedule.cost.macs_ratio:.0%} of the multiply-adds"
    return f"“{schedule.name}” {praise}: {quality} with {share}, {_speed(evaluation, schedule)}."


def main_metric(evaluation: Evaluation) -> str | None:
    """Return what quality is drawn and quoted by: SSIM to dense where it was measured, else the first metric."""
    metrics = [own.metric for own in evaluation.dense.quality]
    return "ssim" if "ssim" in metrics else next(iter(metrics), None)


def _best(evaluation: Evaluation, metric: str, pruned: list[ScheduleEvaluation]) -> ScheduleEvaluation:
    sign = next(1 if own.higher_is_better else -1 for own in evaluation.dense.quality if own.metric == metric)

    def rank(schedule: ScheduleEvaluation) -> float:
        value = schedule.value(metric)
        # NaN compares false with everything; it loses.
        return -math.inf if value is None or math.isnan(value) else sign * value

    return max(pruned, key=rank)


def _speed(evaluation: Evaluation, schedule: ScheduleEvaluation) -> str:
    """The measured speed-up at the main batch size, and every batch size at which it is a slow-down."""
    at = main_latency(evaluation)
    if at is None:
        return "its latency not measured"
    others = [other for other in timed(evaluation) if other.scope == at.scope and other != at]
    shown = [at, *(other for other in others if round(speedup_at(evaluation, schedule, other), 2) < 1)]
    words = (f"{describe_speedup(speedup_at(evaluation, schedule, one))} at batch {one.batch_size}" for one in shown)
    return f"measured {', '.join(words)}"
