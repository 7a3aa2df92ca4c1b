"""Pictures of results: fitness over generations, quality beside latency, speed-up by batch size, parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator, PercentFormatter

from diff_es.evaluation import describe_speedup, speedup
from diff_es.report.metric_names import metric_name
from diff_es.report.theme import Theme, bare, drawing, palette_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from diff_es.evaluation import Evaluation, ScheduleEvaluation
    from diff_es.report.content import FitnessPoint
    from diff_es.report.latency import Timed

_MARKERS = ("o", "s", "^", "D", "v")


def draw_fitness(history: Mapping[str, Sequence[FitnessPoint]], label: str, theme: Theme) -> bytes:
    """One line per search for its best fitness; the band runs from the worst survivor to the best."""
    with drawing(theme, 2.9 + 0.16 * len(history)) as figure:
        axes = figure.subplots()
        for index, (name, points) in enumerate(history.items()):
            colour = theme.hues[index % len(theme.hues)]
            generations = [point.generation for point in points]
            worst, best = [point.worst for point in points], [point.best for point in points]
            axes.fill_between(generations, worst, best, color=colour, alpha=0.18, linewidth=0)
            axes.plot(generations, [point.mean for point in points], color=colour, linewidth=0.9, linestyle=(0, (4, 2)))
            every = max(1, len(points) // 12)
            axes.plot(
                generations, best, color=colour, linewidth=1.8, marker=marker(index), ms=4, markevery=every, label=name
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("generation")
        axes.set_ylabel(label)
        rule(axes, theme)
        figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return palette_png(figure)


def draw_results(evaluation: Evaluation, metric: str | None, at: Timed | None, theme: Theme) -> bytes:
    """Bars of one metric beside bars of latency; either may be missing.

    Args:
        evaluation: What is shown.
        metric: One of its metrics; None to leave quality out.
        at: The latency to show; None to leave it out.
        theme: Colours.
    """
    schedules = evaluation.schedules
    with drawing(theme, 0.75 + 0.5 * len(schedules)) as figure:
        count = (metric is not None) + (at is not None)
        panels = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
        for axes in panels:
            bare(axes)
            axes.set_yticks([])
            axes.set_ylim(len(schedules) - 0.45, -0.75)
        for row, schedule in enumerate(schedules):
            panels[0].text(0, row - 0.36, schedule.name, fontsize=8.5, va="center", color=theme.ink)
        if metric is not None:
            _draw_quality(panels[0], schedules, metric, theme)
        if at is not None:
            _draw_latency(panels[-1], evaluation, at, theme)
        return palette_png(figure)


def draw_speedups(evaluation: Evaluation, entries: Sequence[Timed], theme: Theme) -> bytes:
    """Speed-up over batch sizes, one line per schedule; whiskers and the grey band run from p10 to p90.

    Args:
        evaluation: What is shown.
        entries: Batch sizes of one scope.
        theme: Colours.
    """
    pruned = [schedule for schedule in evaluation.schedules if not schedule.is_dense]
    dense = [evaluation.dense.cost.latency_of(at.batch_size, at.scope) for at in entries]
    places = range(len(entries))
    with drawing(theme, 2.6 + 0.16 * len(pruned)) as figure:
        axes = figure.subplots()
        spread = [own.median_ms / own.p90_ms for own in dense], [own.median_ms / own.p10_ms for own in dense]
        axes.fill_between(places, *spread, color=theme.muted, alpha=0.2, linewidth=0)
        axes.axhline(1, color=theme.muted, linewidth=1)
        for index, schedule in enumerate(pruned):
            own = [schedule.cost.latency_of(at.batch_size, at.scope) for at in entries]
            middle = [base.median_ms / record.median_ms for base, record in zip(dense, own, strict=True)]
            low = [base.median_ms / record.p90_ms for base, record in zip(dense, own, strict=True)]
            high = [base.median_ms / record.p10_ms for base, record in zip(dense, own, strict=True)]
            shift = 0.06 * (index - (len(pruned) - 1) / 2)
            draw_whiskers(axes, ([place + shift for place in places], middle, low, high), index, schedule.name, theme)
        axes.set_xticks(places, [str(at.batch_size) for at in entries])
        axes.set_xlabel("batch size")
        axes.set_ylabel("times as fast as dense")
        axes.set_xlim(-0.4, len(entries) - 0.6)
        rule(axes, theme)
        figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return palette_png(figure)


def draw_parameters(evaluation: Evaluation, theme: Theme) -> bytes:
    """Share of the dense denoiser's parameters that each stage uses, in sampling order."""
    pruned = [schedule for schedule in evaluation.schedules if schedule.cost.parameters_per_stage]
    with drawing(theme, 2.3 + 0.16 * len(pruned)) as figure:
        axes = figure.subplots()
        for index, schedule in enumerate(pruned):
            shares = [used / schedule.cost.parameters for used in reversed(schedule.cost.parameters_per_stage)]
            edges = [place - 0.5 for place in range(len(shares) + 1)]
            line = (0, (4, 2)) if index % 2 else "-"
            axes.stairs(
                shares,
                edges,
                baseline=None,
                color=theme.hues[index % len(theme.hues)],
                lw=1.8,
                ls=line,
                label=schedule.name,
            )
        axes.axhline(1, color=theme.muted, linewidth=1)
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        stages = max(len(schedule.cost.parameters_per_stage) for schedule in pruned)
        every = math.ceil(stages / 20)
        axes.set_xticks(range(0, stages, every), [str(stage) for stage in range(stages - 1, -1, -1)][::every])
        axes.set_xlabel("stage, in sampling order (noise → image)")
        axes.set_ylabel("parameters used")
        rule(axes, theme)
        figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return palette_png(figure)


def draw_whiskers(
    axes: Axes,
    values: tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]],
    index: int,
    label: str,
    theme: Theme,
) -> None:
    """One line through the middles, and a whisker from low to high at each; the index chooses colour and marker.

    Args:
        axes: Where to draw.
        values: Places, middles, lower and upper ends.
        index: Number of the series.
        label: What the legend says.
        theme: Colours.
    """
    places, middle, low, high = values
    colour = theme.hues[index % len(theme.hues)]
    axes.vlines(places, low, high, color=colour, linewidth=1.2)
    axes.plot(places, middle, color=colour, linewidth=1.5, marker=marker(index), ms=5, label=label)


def marker(index: int) -> str:
    """Marker of a series; together with its colour it stays distinct for 25 of them."""
    return _MARKERS[(index + index // len(_MARKERS)) % len(_MARKERS)]


def rule(axes: Axes, theme: Theme) -> None:
    """Thin horizontal rules behind the data."""
    axes.grid(axis="y", color=theme.line, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_quality(axes: Axes, schedules: Sequence[ScheduleEvaluation], metric: str, theme: Theme) -> None:
    name = metric_name(metric)
    axes.set_title(name.title, loc="left", fontsize=9, color=theme.muted)
    values = [_finite(schedule.value(metric)) for schedule in schedules]
    longest = max(1.0 if metric == "ssim" else 0.0, *values) or 1.0
    for row, (schedule, value) in enumerate(zip(schedules, values, strict=True)):
        axes.barh(row, value, height=0.34, color=_colour(schedule, theme))
        text = name.text(schedule.value(metric))
        axes.text(max(0.0, value) + 0.02 * longest, row, text, fontsize=8, va="center", color=theme.ink)
    axes.set_xlim(min(0.0, *values), 1.3 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    higher = next(own.higher_is_better for own in schedules[0].quality if own.metric == metric)
    axes.set_xlabel("higher is better" if higher else "lower is better")


def _draw_latency(axes: Axes, evaluation: Evaluation, at: Timed, theme: Theme) -> None:
    axes.set_title(f"latency in ms, batch {at.batch_size}", loc="left", fontsize=9, color=theme.muted)
    records = [schedule.cost.latency_of(at.batch_size, at.scope) for schedule in evaluation.schedules]
    dense = evaluation.dense.cost.latency_of(at.batch_size, at.scope)
    longest = max(record.p90_ms for record in records)
    for row, (schedule, record) in enumerate(zip(evaluation.schedules, records, strict=True)):
        slower = record.median_ms > dense.median_ms
        axes.barh(row, record.median_ms, height=0.34, color=theme.hues[1] if slower else _colour(schedule, theme))
        axes.plot([record.p10_ms, record.p90_ms], [row, row], color=theme.ink, linewidth=1.2, marker="|", ms=6)
        axes.text(record.p90_ms + 0.03 * longest, row, f"{record.median_ms:.0f}", fontsize=8, va="center")
        if not schedule.is_dense and len(axes.figure.axes) > 1:
            words = describe_speedup(speedup(dense, record))
            axes.text(0, row - 0.36, words, fontsize=8, va="center", color=theme.muted)
    axes.set_xlim(0, 1.3 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel("lower is better")


def _colour(schedule: ScheduleEvaluation, theme: Theme) -> str:
    return theme.muted if schedule.is_dense else theme.hues[0]


def _finite(value: float | None) -> float:
    """Where to put what has no place on the axis."""
    return value if value is not None and math.isfinite(value) else 0.0
