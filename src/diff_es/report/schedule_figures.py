"""Pictures of pruning schedules, in sampling order: noise on the left, the finished image on the right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle

from diff_es.report.theme import Theme, bare, drawing, palette_png

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from diff_es.schedule import Levels, PruningSchedule

_AXIS = "stage, in sampling order (noise → image)"
#: More layer names than this would overlap; only every k-th is then written.
_MOST_NAMES = 36


def draw_overview(schedules: Mapping[str, PruningSchedule], theme: Theme) -> bytes:
    """One strip per schedule: the level of each stage, as a number and as a colour.

    Args:
        schedules: All with the same number of stages.
        theme: Colours.
    """
    with drawing(theme, 0.55 + 0.52 * len(schedules)) as figure:
        rows = figure.subplots(len(schedules), 1, squeeze=False)[:, 0]
        for axes, (name, schedule) in zip(rows, schedules.items(), strict=True):
            _draw_cells(axes, [schedule.levels], schedule.num_levels, theme)
            axes.set_title(name, loc="left", fontsize=9, color=theme.ink, pad=3)
            axes.set_xticks([])
            axes.set_yticks([])
        _label_stages(rows[-1], schedule.num_stages)
        return palette_png(figure)


def draw_schedule(schedule: PruningSchedule, theme: Theme) -> bytes:
    """Bars of the stage levels above a map of the layer levels (layers × stages)."""
    layers = len(schedule.layers)
    map_height = min(max(0.17 * layers, 0.5), 6.0)
    with drawing(theme, 1.75 + map_height) as figure:
        bars, cells = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, map_height))
        _draw_bars(bars, schedule, theme)
        by_layer = [tuple(row[index] for row in schedule.layer_levels) for index in range(layers)]
        _draw_cells(cells, by_layer, schedule.num_levels, theme)
        every = math.ceil(layers / _MOST_NAMES)
        cells.set_yticks(range(0, layers, every), shorten(schedule.layers)[::every], fontsize=7)
        cells.set_ylabel("layer levels")
        _label_stages(cells, schedule.num_stages)
        return palette_png(figure)


def shorten(names: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the dotted beginning that all names share ("transformer_blocks.")."""
    parts = [name.split(".") for name in names]
    shared = 0
    # The last part stays, so that one layer alone keeps a name.
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return tuple(".".join(part[shared:]) for part in parts)


def _draw_bars(axes: Axes, schedule: PruningSchedule, theme: Theme) -> None:
    levels = _in_sampling_order(schedule.levels)
    colours = [theme.level_colour(level / schedule.num_levels) for level in levels]
    bars = axes.bar(range(len(levels)), levels, width=0.86, color=colours, edgecolor=theme.line, linewidth=0.6)
    axes.bar_label(bars, [str(level) for level in levels], fontsize=8, color=theme.ink, padding=1)
    axes.set_ylim(0, schedule.num_levels * 1.18)
    axes.set_yticks([0, schedule.num_levels], ["0", f"H = {schedule.num_levels}"])
    axes.set_ylabel("stage levels")
    axes.tick_params(labelbottom=False)
    axes.spines["left"].set_visible(False)


def _draw_cells(axes: Axes, rows: list[Levels], num_levels: int, theme: Theme) -> None:
    """Fill a grid: one row per entry of `rows`, one column per stage in sampling order, level 0 pale."""
    numbers = len(rows) <= _MOST_NAMES and len(rows[0]) <= 20
    for y, row in enumerate(rows):
        for x, level in enumerate(_in_sampling_order(row)):
            colour = theme.level_colour(level / num_levels)
            axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=colour, linewidth=0))
            if numbers:
                size = 8 if len(rows) == 1 else 6
                text = theme.text_on(colour)
                axes.text(x, y, str(level), ha="center", va="center", fontsize=size, color=text)
    axes.set_xlim(-0.6, len(rows[0]) - 0.4)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    bare(axes)


def _label_stages(axes: Axes, num_stages: int) -> None:
    every = math.ceil(num_stages / 20)
    stages = range(num_stages - 1, -1, -1)
    axes.set_xticks(range(0, num_stages, every), [str(stage) for stage in stages][::every])
    axes.set_xlabel(_AXIS)


def _in_sampling_order(levels: Levels) -> Levels:
    """Stage 0 is the low-noise end, which sampling reaches last."""
    return levels[::-1]
