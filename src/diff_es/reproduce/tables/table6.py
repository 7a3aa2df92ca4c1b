"""Table 6: loading memory of stitched models and of weight routing."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Table, tables
from diff_es.reproduce.tables.table1 import DENSE, diff_es

_ROW = diff_es("OBS", 0.4375)

TABLE6 = tables.register(
    "table6",
    Table(
        "table6",
        "Table 6: memory of model stitching and of weight routing",
        "One schedule of ten stages at about 40 %, loaded three ways: one separately pruned model per stage, stitched; "
        "one model with the thin weights of all stages resident; one model that gathers the stage's weights from the "
        "dense ones at each switch.",
        (_ROW,),
        (
            Claim("resident", "stitched", "memory", paper=(5.61e9, 9.79e9)),
            Claim("gather", "resident", "memory"),
        ),
        memory=_ROW.name,
        dense=DENSE,
    ),
)
