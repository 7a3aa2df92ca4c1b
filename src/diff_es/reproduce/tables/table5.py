"""Table 5: stages, generations and probes of the search, one varied at a time."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Row, Table, tables
from diff_es.reproduce.tables.table1 import DENSE, diff_es

_BASE = diff_es("OBS", 0.5)
#: Setting → its changes and the paper's IS, FID and time in hours. Generations and probes are shares of the scale's.
_STAGES = {3: (123.23, 19.43, 0.99), 5: (145.27, 14.48, 4.80), 20: (183.59, 8.96, 34.85)}
_GENERATIONS = {0.5: (152.39, 13.41, 10.39), 1.5: (156.23, 12.86, 24.99)}
_PROBES = {0.5: (154.84, 13.04, 17.62), 2.0: (129.46, 18.29, 16.28)}


def _paper(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("IS", "FID", "hours"), values, strict=True))


def _row(
    name: str,
    values: tuple[float, float, float],
    *,
    stages: int = 10,
    generations: float = 1.0,
    probes: float = 1.0,
) -> Row:
    changes = {"stages": stages, "search": {"sparsity": 0.5}}
    paper = _paper(values)
    return Row(name, "OBS", "paper/dit-obs", changes, generations=generations, probes=probes, paper=paper)


_ROWS = (
    _row(_BASE.name, (156.23, 12.86, 17.26)),
    *(_row(f"{count} stages", values, stages=count) for count, values in _STAGES.items()),
    *(_row(f"{share:g} × the generations", values, generations=share) for share, values in _GENERATIONS.items()),
    *(_row(f"{share:g} × the probes", values, probes=share) for share, values in _PROBES.items()),
)
_PAIRS = (
    ("20 stages", _BASE.name),
    (_BASE.name, "5 stages"),
    ("5 stages", "3 stages"),
    (_BASE.name, "0.5 × the generations"),
    (_BASE.name, "0.5 × the probes"),
    (_BASE.name, "2 × the probes"),
)

TABLE5 = tables.register(
    "table5",
    Table(
        "table5",
        "Table 5: how much stages, generations and probes matter",
        "OBS at 50 %. One setting of the search is varied at a time around 10 stages, the scale's generations and its "
        "probes.",
        _ROWS,
        tuple(Claim(*pair, metric) for pair in _PAIRS for metric in ("FID", "SSIM")),
        dense=DENSE,
    ),
)
