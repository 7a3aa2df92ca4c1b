"""Table 5: stages, generations and probes of the search, one varied at a time, on DiT and on SDXL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diff_es.reproduce.table import Claim, Row, Table, tables
from diff_es.reproduce.tables import table1, table2

#: Setting → the paper's values of the columns of `_DIT` and `_SDXL`. Generations and probes are shares of the scale's.
_Values = Mapping[float, tuple[float, ...]]
_DIT = ("IS", "FID", "hours")
_SDXL = ("CLIP score", "FID", "hours")


def _varied(base: Row, columns: Sequence[str], stages: _Values, generations: _Values, probes: _Values) -> list[Row]:
    """The rows around a base: its recipe with one setting changed."""

    def row(name: str, values: tuple[float, ...], **change: Any) -> Row:
        return replace(base, name=name, paper=dict(zip(columns, values, strict=True)), **change)

    return [
        *(row(f"{n:g} stages", own, changes={**base.changes, "stages": int(n)}) for n, own in stages.items()),
        *(row(f"{share:g} × the generations", own, generations=share) for share, own in generations.items()),
        *(row(f"{share:g} × the probes", own, probes=share) for share, own in probes.items()),
    ]


def _better(base: Row, *others: str) -> list[tuple[str, str]]:
    return [(base.name, other) for other in others]


def _claims(pairs: Sequence[tuple[str, str]]) -> tuple[Claim, ...]:
    return tuple(Claim(*pair, metric) for pair in pairs for metric in ("FID", "SSIM"))


_BASE = replace(table1.diff_es("OBS", 0.5), paper=dict(zip(_DIT, (156.23, 12.86, 17.26), strict=True)))
_VARIED = _varied(
    _BASE,
    _DIT,
    {3: (123.23, 19.43, 0.99), 5: (145.27, 14.48, 4.80), 20: (183.59, 8.96, 34.85)},
    {0.5: (152.39, 13.41, 10.39), 1.5: (156.23, 12.86, 24.99)},
    {0.5: (154.84, 13.04, 17.62), 2.0: (129.46, 18.29, 16.28)},
)

TABLE5 = tables.register(
    "table5",
    Table(
        "table5",
        "Table 5: how much stages, generations and probes matter",
        "OBS at 50 %. One setting of the search is varied at a time around 10 stages, the scale's generations and its "
        "probes.",
        (_BASE, *_VARIED),
        _claims(
            [
                ("20 stages", _BASE.name),
                (_BASE.name, "5 stages"),
                ("5 stages", "3 stages"),
                *_better(_BASE, "0.5 × the generations", "0.5 × the probes", "2 × the probes"),
            ]
        ),
        dense=table1.DENSE,
    ),
)

_SDXL_BASE = replace(table2.by_fitness("ssim", 0.3), paper=dict(zip(_SDXL, (0.3222, 25.81, 1.71), strict=True)))
_SDXL_VARIED = _varied(
    _SDXL_BASE,
    _SDXL,
    {3: (0.3220, 25.77, 0.13), 5: (0.3223, 26.88, 0.34), 20: (0.3222, 25.85, 4.09)},
    {0.5: (0.3222, 25.81, 1.57), 1.5: (0.3222, 25.81, 1.70)},
    {0.25: (0.3223, 25.75, 0.53), 0.5: (0.3224, 25.87, 0.82), 2.0: (0.3221, 25.91, 2.46)},
)

TABLE5_SDXL = tables.register(
    "table5-sdxl",
    Table(
        "table5-sdxl",
        "Table 5, SDXL: how much stages, generations and probes matter",
        "OBS at 30 %, searched by SSIM. One setting of the search is varied at a time around 10 stages, the scale's "
        "generations and its probes. The paper finds little difference but for 5 stages.",
        (_SDXL_BASE, *_SDXL_VARIED),
        _claims(_better(_SDXL_BASE, "5 stages")),
        dense=table2.DENSE,
    ),
)
