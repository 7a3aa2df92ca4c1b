"""Table 7: Diff-ES together with DeepCache and with fewer steps of DPM-Solver, on SDXL."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Row, Table, tables
from diff_es.reproduce.tables.table2 import DENSE

_SPARSITY = 0.3
_PLAIN, _DEEP_CACHE, _DPM_SOLVER = "paper/sdxl-obs", "paper/sdxl-obs-deepcache", "paper/sdxl-obs-dpm-solver"


def _pruned(name: str, group: str, recipe: str, macs: float, fid: float) -> Row:
    changes = {"search": {"sparsity": _SPARSITY}}
    return Row(name, group, recipe, changes, paper={"MACs": macs, "FID": fid})


def _unpruned(name: str, group: str, recipe: str) -> Row:
    """Not in the paper: what the accelerator does by itself."""
    changes = {"search": {"sparsity": 0.0, "algorithm": "uniform"}}
    return Row(name, group, recipe, changes, searched=False)


_OURS = _pruned("Diff-ES", "OBS 30 %", _PLAIN, 52.45, 25.87)
_CACHED = _pruned("Diff-ES, DeepCache", "DeepCache", _DEEP_CACHE, 36.05, 27.10)
_FEWER = _pruned("Diff-ES, DPM-Solver 10 steps", "DPM-Solver", _DPM_SOLVER, 26.23, 25.67)
_CACHE_ALONE = _unpruned("DeepCache alone", "DeepCache", _DEEP_CACHE)
_FEWER_ALONE = _unpruned("DPM-Solver 10 steps alone", "DPM-Solver", _DPM_SOLVER)

TABLE7 = tables.register(
    "table7",
    Table(
        "table7",
        "Table 7: together with DeepCache and DPM-Solver on SDXL",
        "OBS at 30 %, searched: by itself, with DeepCache (every second step takes the deep features of the one "
        "before), and with ten steps of DPM-Solver++ in place of twenty of Euler ancestral. The accelerators by "
        "themselves stand beside them; the paper does not have them. SSIM compares with the unpruned, uncached model "
        "under the row's own sampler; MACs are a share of the dense model's in twenty steps.",
        (_OURS, _CACHE_ALONE, _CACHED, _FEWER_ALONE, _FEWER),
        (
            Claim(_OURS.name, "dense", "MACs"),
            Claim(_CACHED.name, _OURS.name, "MACs"),
            Claim(_FEWER.name, _OURS.name, "MACs"),
            Claim(_OURS.name, _CACHED.name),
            Claim(_FEWER.name, _OURS.name),
        ),
        dense=DENSE,
    ),
)
