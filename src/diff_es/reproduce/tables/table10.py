"""Table 10: latency at several batch sizes."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Table, tables
from diff_es.reproduce.tables.table1 import DENSE, diff_es

_ROW = diff_es("OBS", 0.4375)
#: Batch size → the paper's latency in ms of the pruned and of the dense model.
_PAPER = {1: (188.5, 158.7), 2: (200.9, 201.5), 8: (489.6, 670.3), 16: (1021.6, 1320.9), 32: (2366.3, 2877.4)}


def _claim(size: int) -> Claim:
    """The faster of the two in the paper."""
    pruned, dense = _PAPER[size]
    if dense < pruned:
        return Claim("dense", _ROW.name, f"latency, batch {size}", paper=(dense, pruned))
    return Claim(_ROW.name, "dense", f"latency, batch {size}", paper=(pruned, dense))


TABLE10 = tables.register(
    "table10",
    Table(
        "table10",
        "Table 10: latency and speed-up by batch size",
        "The searched schedule at about 40 % against the dense model. Pruning pays where there is enough work in "
        "parallel; at batch size 1 the paper measured a slow-down.",
        (_ROW,),
        tuple(_claim(size) for size in _PAPER),
        latency=tuple(_PAPER),
        scopes=("denoiser", "pipeline"),
        dense=DENSE,
    ),
)
