"""What is drawn of a table: its quality row by row, its speed-up by batch size, its memory by setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diff_es.evaluation import DENSE, speedup
from diff_es.report import Plot, PlotPoint, Series
from diff_es.reproduce.claims import LATENCY
from diff_es.reproduce.columns import columns

if TYPE_CHECKING:
    from diff_es.evaluation import Scope
    from diff_es.reproduce.columns import Column
    from diff_es.reproduce.result import RowResult, TableResult

#: Columns that are drawn: the one that stands for FID, and what small searches maximise.
_PAPER, _OWN = "FID", "ssim"


def plots(result: TableResult) -> tuple[Plot, ...]:
    """Return the plots of a table; a table of one row has nothing to compare row by row."""
    drawn = [own for own in columns(result) if own.key == _OWN or own.paper == _PAPER]
    quality = [_quality(result, column) for column in drawn] if len(result.rows) > 2 else []
    return (*quality, *_speedups(result), *_memory(result))


def _quality(result: TableResult, column: Column) -> Plot:
    direction = "higher is better" if column.higher_is_better else "lower is better"
    cells = {row.name: column.cell(row) for row in result.rows if row.name != DENSE}
    points = tuple(PlotPoint(name, cell.ours, cell.interval) for name, cell in cells.items() if cell.ours is not None)
    return Plot(
        title=column.title,
        x_label="",
        y_label=f"{column.title} ({direction})",
        series=(Series("here", points),),
        kind="bars",
        caption="Lines are 95 % intervals over searches and images.",
    )


def _speedups(result: TableResult) -> tuple[Plot, ...]:
    """Speed-up by batch size, where there are several sizes, with the paper's own."""
    sizes = sorted({entry.batch_size for entry in result.rows[0].cost.latency})
    if len(sizes) < 2:
        return ()
    scopes = list(dict.fromkeys(entry.scope for entry in result.rows[0].cost.latency))
    series = [_speedup(result, row, sizes, scope) for row in result.rows[1:] if row.cost.latency for scope in scopes]
    return (
        Plot(
            title="Speed-up by batch size",
            x_label="images per call",
            y_label="speed-up over dense (higher is better; below 1 is slower)",
            series=(*series, *_paper_speedups(result)),
            caption="Ratios of medians; all models alternated at each batch size.",
        ),
    )


def _speedup(result: TableResult, row: RowResult, sizes: list[int], scope: Scope) -> Series:
    dense = result.rows[0].cost
    points = (
        PlotPoint(size, speedup(dense.latency_of(size, scope), row.cost.latency_of(size, scope))) for size in sizes
    )
    return Series(f"{row.name}, {scope}", tuple(points))


def _paper_speedups(result: TableResult) -> tuple[Series, ...]:
    points = []
    for claim in result.claims:
        if claim.paper is not None and claim.metric.startswith(LATENCY):
            better, worse = claim.paper
            ratio = better / worse if claim.better == DENSE else worse / better
            points.append(PlotPoint(int(claim.metric.removeprefix(LATENCY)), ratio))
    return (Series("the paper, DiT-XL/2 on an L40S", tuple(points), from_paper=True),) if points else ()


def _memory(result: TableResult) -> tuple[Plot, ...]:
    if not result.memory:
        return ()
    parts = {
        "live tensors": [own.tensor_bytes for own in result.memory.values()],
        "growth by loading": [own.loading_bytes for own in result.memory.values()],
    }
    series = tuple(
        Series(name, tuple(PlotPoint(setting, size / 1e6) for setting, size in zip(result.memory, sizes, strict=True)))
        for name, sizes in parts.items()
    )
    return (
        Plot(
            title="Memory by setting",
            x_label="",
            y_label="MB (lower is better)",
            series=series,
            kind="bars",
            caption="Each setting was loaded in a process of its own.",
        ),
    )
