"""Table 11: evolutionary search against other searches, at equal numbers of evaluated schedules."""

from __future__ import annotations

from dataclasses import replace

from diff_es.reproduce.table import Claim, Row, Table, tables
from diff_es.reproduce.tables.table1 import DENSE, diff_es, uniform

_OURS = replace(diff_es("OBS", 0.5), paper={"IS": 156.23, "FID": 12.86, "precision": 0.66, "recall": 0.59})
_GREEDY = {"IS": 83.66, "FID": 33.75, "precision": 0.5028, "recall": 0.5758}


def _other(algorithm: str, paper: dict[str, float] | None = None) -> Row:
    changes = {"search": {"sparsity": 0.5, "algorithm": algorithm}}
    return Row(f"OBS 50 %, {algorithm}", "OBS", "paper/dit-obs", changes, paper=paper or {})


_OTHERS = (_other("greedy", _GREEDY), _other("random"), _other("hill-climb"), _other("stagewise-dp"))

TABLE11 = tables.register(
    "table11",
    Table(
        "table11",
        "Table 11: evolutionary search against other searches",
        "OBS at 50 %, ten stages. Every search evaluates as many schedules as the evolution does at most, on the same "
        "probes. The paper compares with greedy search only.",
        (uniform("OBS", 0.5), *_OTHERS, _OURS),
        (
            *(Claim(_OURS.name, _OTHERS[0].name, metric) for metric in ("FID", "IS")),
            *(Claim(_OURS.name, other.name, "SSIM") for other in _OTHERS),
        ),
        dense=DENSE,
    ),
)
