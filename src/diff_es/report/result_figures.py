"""Pictures of results: fitness over generations, and quality beside latency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from diff_es.evaluation import describe_speedup, speedup
from diff_es.report.theme import Theme, bare, drawing, png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from diff_es.evaluation import Evaluation, ScheduleEvaluation
    from diff_es.report.content import FitnessPoint

_MARKERS = ("o", "s", "^", "D", "v")


def draw_fitness(history: Mapping[str, Sequence[FitnessPoint]], label: str, theme: Theme) -> bytes:
    """One line per search for its best fitness; the band runs from the worst survivor to the best."""
    with drawing(theme, 3.1) as figure:
        axes = figure.subplots()
        for index, (name, points) in enumerate(history.items()):
            colour = theme.hues[index % len(theme.hues)]
            generations = [point.generation for point in points]
            worst, best = [point.worst for point in points], [point.best for point in points]
            axes.fill_between(generations, worst, best, color=colour, alpha=0.18, linewidth=0)
            axes.plot(generations, [point.mean for point in points], color=colour, linewidth=0.9, linestyle=(0, (4, 2)))
            marker = _MARKERS[index % len(_MARKERS)]
            every = max(1, len(points) // 12)
            axes.plot(generations, best, color=colour, linewidth=1.8, marker=marker, ms=4, markevery=every, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("generation")
        axes.set_ylabel(label)
        axes.grid(axis="y", color=theme.line, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return png(figure)


def draw_quality_and_latency(evaluation: Evaluation, theme: Theme) -> bytes:
    """Two bars per schedule: SSIM to dense, and median latency with its 10th to 90th percentile."""
    schedules = evaluation.schedules
    with drawing(theme, 0.75 + 0.5 * len(schedules)) as figure:
        quality, latency = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
        _draw_quality(quality, schedules, theme)
        _draw_latency(latency, evaluation, theme)
        for axes in (quality, latency):
            bare(axes)
            axes.set_yticks([])
            axes.set_ylim(len(schedules) - 0.45, -0.75)
        for row, schedule in enumerate(schedules):
            quality.text(0, row - 0.36, schedule.name, fontsize=8.5, va="center", color=theme.ink)
        return png(figure)


def _draw_quality(axes: Axes, schedules: Sequence[ScheduleEvaluation], theme: Theme) -> None:
    axes.set_title("SSIM to dense", loc="left", fontsize=9, color=theme.muted)
    for row, schedule in enumerate(schedules):
        if math.isfinite(schedule.ssim):
            axes.barh(row, schedule.ssim, height=0.34, color=_colour(schedule, theme))
        text = f"{schedule.ssim:.3f}" if math.isfinite(schedule.ssim) else "not finite"
        axes.text(max(0.0, _finite(schedule.ssim)) + 0.02, row, text, fontsize=8, va="center", color=theme.ink)
    low = min(0.0, *(_finite(schedule.ssim) for schedule in schedules))
    axes.set_xlim(low, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("higher is better")


def _draw_latency(axes: Axes, evaluation: Evaluation, theme: Theme) -> None:
    axes.set_title("latency in ms: median, p10–p90", loc="left", fontsize=9, color=theme.muted)
    longest = max(schedule.latency.p90_ms for schedule in evaluation.schedules)
    for row, schedule in enumerate(evaluation.schedules):
        record = schedule.latency
        slower = record.median_ms > evaluation.dense.latency.median_ms
        axes.barh(row, record.median_ms, height=0.34, color=theme.hues[1] if slower else _colour(schedule, theme))
        axes.plot([record.p10_ms, record.p90_ms], [row, row], color=theme.ink, linewidth=1.2, marker="|", ms=6)
        axes.text(record.p90_ms + 0.03 * longest, row, f"{record.median_ms:.0f}", fontsize=8, va="center")
        if not schedule.is_dense:
            words = describe_speedup(speedup(evaluation.dense.latency, record))
            axes.text(0, row - 0.36, words, fontsize=8, va="center", color=theme.muted)
    axes.set_xlim(0, 1.25 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("lower is better")


def _colour(schedule: ScheduleEvaluation, theme: Theme) -> str:
    return theme.muted if schedule.is_dense else theme.hues[0]


def _finite(value: float) -> float:
    """Where to put what has no place on the axis."""
    return value if math.isfinite(value) else 0.0
