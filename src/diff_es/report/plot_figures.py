"""The plots of a re-created table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diff_es.report.result_figures import marker, rule
from diff_es.report.theme import Theme, drawing, palette_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from diff_es.report.table_content import Plot, PlotPoint, Series


def draw_plot(plot: Plot, theme: Theme) -> bytes:
    """Lines or bars, each with its interval; the paper's series are hollow and dashed."""
    names = _categories(plot)
    if plot.kind == "bars" and _crowded(names):
        return _draw_lying(plot, names, theme)
    with drawing(theme, 2.7 + 0.16 * len(plot.series)) as figure:
        axes = figure.subplots()
        draw = _draw_bars if plot.kind == "bars" else _draw_line
        for index, (series, places) in enumerate(zip(plot.series, _places(plot), strict=True)):
            draw(axes, series, places, (index, len(plot.series)), theme)
        if names:
            _label_categories(axes, names)
        axes.set_xlabel(plot.x_label)
        # Lying, above the axis: a long label would not fit beside it.
        axes.set_title(plot.y_label, loc="left", fontsize=9, color=theme.muted)
        rule(axes, theme)
        figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return palette_png(figure)


def describe_plot(plot: Plot) -> str:
    """Every value of a plot in words: its text alternative."""
    series = (f"{entry.name}: {', '.join(map(_point_words, entry.points))}" for entry in plot.series)
    return f"{plot.title}: {plot.y_label} over {plot.x_label}. {'; '.join(series)}."


def _categories(plot: Plot) -> list[str]:
    """The names on the x axis, in order; none where x is a number."""
    return list(dict.fromkeys(p.x for series in plot.series for p in series.points if isinstance(p.x, str)))


def _places(plot: Plot) -> list[list[float]]:
    """Where the points of each series lie; lines that share an x stand a little apart, or whiskers hide each other."""
    names = _categories(plot)
    places = [
        [float(names.index(p.x) if isinstance(p.x, str) else p.x) for p in series.points] for series in plot.series
    ]
    distinct = {place for own in places for place in own}
    if plot.kind == "bars" or len(distinct) == sum(map(len, places)):
        return places
    step = 0.012 * (max(distinct) - min(distinct))
    middle = (len(places) - 1) / 2
    return [[place + step * (index - middle) for place in own] for index, own in enumerate(places)]


def _crowded(names: list[str]) -> bool:
    """Whether the names would run into each other side by side."""
    return len(names) > 1 and max(map(len, names)) * len(names) > 44


def _draw_lying(plot: Plot, names: list[str], theme: Theme) -> bytes:
    """Bars from left to right, so that each name has a line of its own above them."""
    thickness, height = 0.17, 0.24 + 0.17 * len(plot.series)
    with drawing(theme, 0.8 + 0.16 * len(plot.series) + height * len(names)) as figure:
        axes = figure.subplots()
        for index, (series, places) in enumerate(zip(plot.series, _places(plot), strict=True)):
            colour = theme.hues[index % len(theme.hues)]
            rows = [place * height + 0.2 + thickness * index for place in places]
            values = [point.y for point in series.points]
            fill, line = (theme.paper, "--") if series.from_paper else (colour, "-")
            axes.barh(rows, values, 0.86 * thickness, fc=fill, ec=colour, ls=line, label=series.name)
            axes.hlines(rows, *_ends(series), color=theme.ink, linewidth=1.2)
        for row, name in enumerate(names):
            axes.text(0, row * height + 0.05, name, fontsize=8.5, va="center", color=theme.ink)
        axes.set_ylim(height * len(names), -0.08)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(plot.y_label)
        axes.set_title(plot.x_label, loc="left", fontsize=9, color=theme.muted)
        if len(plot.series) > 1:
            figure.legend(loc="outside upper left", ncols=1, labelcolor=theme.ink, borderpad=0, handlelength=2.4)
        return palette_png(figure)


def _label_categories(axes: Axes, names: list[str]) -> None:
    crowded = _crowded(names)
    axes.set_xticks(range(len(names)), names, rotation=30 if crowded else 0, fontsize=8 if crowded else 9)
    for label in axes.get_xticklabels() if crowded else ():
        label.set(horizontalalignment="right", rotation_mode="anchor")


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
        marker=marker(index),
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
