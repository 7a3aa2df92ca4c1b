"""Table 3: what finding the schedule takes, and what it gives."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Table, tables
from diff_es.reproduce.tables.table1 import DENSE, diff_es, mosaic

_MOSAIC, _OURS = mosaic("OBS", 0.4375), diff_es("OBS", 0.4375)

TABLE3 = tables.register(
    "table3",
    Table(
        "table3",
        "Table 3: one-time cost and quality at about 40 % sparsity",
        "MosaicDiff needs no search; Diff-ES pays for one once. Runtime is calibration, bank and search together.",
        (_MOSAIC, _OURS),
        (
            Claim(_OURS.name, _MOSAIC.name, "FID", paper=(4.25, 6.13)),
            Claim(_MOSAIC.name, _OURS.name, "runtime", paper=(0.64 * 3600, 18.87 * 3600)),
            Claim(_OURS.name, "dense", "latency, batch 8", paper=(61.20, 83.60)),
        ),
        latency=(8,),
        dense=DENSE,
    ),
)
