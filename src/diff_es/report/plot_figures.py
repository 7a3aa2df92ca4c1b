"""The plots of a re-created table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diff_es.report.result_figures import MARKERS, rule
from diff_es.report.theme import Theme, drawing, palette_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from diff_es.report.table_content import Plot, PlotPoint, Series


def draw_plot(plot: Plot, theme: Theme) -> bytes:
    """Lines or bars, each with its interval; the paper's series are hollow and dashed."""
    with drawing(theme, 2.7 + 0.16 * len(plot.series)) as figure:
        axes = figure.subplots()
        names = list(dict.fromkeys(point.x for series in plot.series for point in series.points))
        by_name = isinstance(names[0], str)
        for index, series in enumerate(plot.series):
            places = [float(names.index(p.x)) if by_name else float(p.x) for p in series.points]
            (_draw_bars if plot.kind == "bars" else _draw_line)(axes, series, places, (index, len(plot.series)), theme)
        if by_name:
            crowded = len(names) > 1 and max(len(str(name)) for name in names) * len(names) > 44
            axes.set_xticks(range(len(names)), [str(name) for name in names], rotation=30 if crowded else 0)
            if crowded:
                axes.tick_params(axis="x", labelsize=8)
                for label in axes.get_xticklabels():
                    label.set(horizontalalignment="right", rotation_mode="anchor")
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        rule(axes, theme)
        figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return palette_png(figure)


def describe_plot(plot: Plot) -> str:
    """Every value of a plot in words: its text alternative."""
    series = (f"{entry.name}: {', '.join(map(_point_words, entry.points))}" for entry in plot.series)
    return f"{plot.title}: {plot.y_label} over {plot.x_label}. {'; '.join(series)}."


def _draw_line(axes: Axes, series: Series, places: list[float], order: tuple[int, int], theme: Theme) -> None:
    index, _ = order
    colour, line = theme.hues[index % len(theme.hues)], "--" if series.from_paper else "-"
    low, high = _ends(series)
    axes.vlines(places, low, high, color=colour, linewidth=1.2)
    axes.plot(
        places,
        [point.y for point in series.points],
        color=colour,
        linewidth=1.5,
        linestyle=line,
        marker=MARKERS[index % len(MARKERS)],
        markersize=5,
        markerfacecolor=theme.paper if series.from_paper else colour,
        label=series.name,
    )


def _draw_bars(axes: Axes, series: Series, places: list[float], order: tuple[int, int], theme: Theme) -> None:
    index, count = order
    colour, width = theme.hues[index % len(theme.hues)], 0.8 / count
    centres = [place + width * (index - (count - 1) / 2) for place in places]
    axes.bar(
        centres,
        [point.y for point in series.points],
        width=0.92 * width,
        facecolor=theme.paper if series.from_paper else colour,
        edgecolor=colour,
        linestyle="--" if series.from_paper else "-",
        label=series.name,
    )
    axes.vlines(centres, *_ends(series), color=theme.ink, linewidth=1.2)


def _ends(series: Series) -> tuple[list[float], list[float]]:
    """Lower and upper ends of the whiskers; none where there is no interval."""
    ends = [point.interval or (math.nan, math.nan) for point in series.points]
    return [low for low, _ in ends], [high for _, high in ends]


def _point_words(point: PlotPoint) -> str:
    return f"{point.x}: {point.y:.3g}" if math.isfinite(point.y) else f"{point.x}: not known"
