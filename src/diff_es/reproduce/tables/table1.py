"""Table 1: pruners and schedules on a diffusion transformer, quality at equal sparsity."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Row, Table, tables

#: (pruner, sparsity) → the paper's MACs in T, latency in ms, speed-up, IS, FID, precision and recall: of MosaicDiff
#: in the first line, of Diff-ES in the second.
_PAPER = {
    ("LayerDrop", 0.1786): (
        (2.02, 73.34, 1.14, 1.50, 366.96, 0.00, 0.00),
        (2.02, 71.22, 1.17, 36.30, 84.13, 0.22, 0.40),
    ),
    ("Wanda", 0.125): (
        (2.13, 87.13, 0.96, 66.57, 43.89, 0.39, 0.46),
        (2.13, 78.87, 1.06, 253.79, 5.28, 0.79, 0.50),
    ),
    ("Wanda", 0.1875): (
        (2.02, 81.73, 1.03, 7.30, 134.60, 0.10, 0.33),
        (2.02, 76.97, 1.09, 17.55, 121.33, 0.25, 0.39),
    ),
    ("OBS", 0.3125): (
        (1.66, 68.91, 1.22, 251.23, 4.01, 0.79, 0.53),
        (1.66, 69.42, 1.20, 268.66, 3.63, 0.81, 0.52),
    ),
    ("OBS", 0.4375): (
        (1.42, 60.96, 1.38, 206.84, 6.13, 0.73, 0.56),
        (1.42, 61.20, 1.37, 232.73, 4.25, 0.77, 0.57),
    ),
    ("OBS", 0.5): (
        (1.19, 55.25, 1.52, 110.13, 22.29, 0.55, 0.58),
        (1.19, 56.92, 1.47, 156.23, 12.86, 0.66, 0.59),
    ),
}
#: The dense DiT-XL/2 with 20 steps.
DENSE = {"MACs": 2.37, "latency": 83.60, "IS": 329.41, "FID": 4.49, "precision": 0.87, "recall": 0.48}
_RECIPES = {"LayerDrop": "paper/dit-layerdrop", "Wanda": "paper/dit-wanda", "OBS": "paper/dit-obs"}
_METRICS = ("MACs", "latency", "speed-up", "IS", "FID", "precision", "recall")


def name_of(group: str, sparsity: float, method: str) -> str:
    """Name of a row: "OBS 31.25 %, Diff-ES"."""
    return f"{group} {sparsity * 100:.4g} %, {method}"


def mosaic(group: str, sparsity: float) -> Row:
    """MosaicDiff-like: three hand-made stages, on the same bank."""
    changes = {"search": {"sparsity": sparsity, "algorithm": "three-stage"}}
    name = name_of(group, sparsity, "MosaicDiff")
    return Row(name, group, _RECIPES[group], changes, searched=False, paper=_paper(group, sparsity, 0))


def diff_es(group: str, sparsity: float) -> Row:
    """The paper's method: stage levels searched, the same share of every layer."""
    changes = {"search": {"sparsity": sparsity}}
    name = name_of(group, sparsity, "Diff-ES")
    return Row(name, group, _RECIPES[group], changes, paper=_paper(group, sparsity, 1))


def sensitivity(group: str, sparsity: float) -> Row:
    """Past the paper: stage levels searched, spent on the layers that matter least, at no more MACs."""
    changes = {"search": {"sparsity": sparsity, "allocation": "sensitivity"}}
    return Row(name_of(group, sparsity, "Diff-ES + sensitivity"), group, _RECIPES[group], changes)


def _paper(group: str, sparsity: float, line: int) -> dict[str, float]:
    return dict(zip(_METRICS, _PAPER[group, sparsity][line], strict=True))


def uniform(group: str, sparsity: float) -> Row:
    """No search: the same level in every stage and layer; not in the paper."""
    changes = {"search": {"sparsity": sparsity, "algorithm": "uniform"}}
    return Row(name_of(group, sparsity, "uniform"), group, _RECIPES[group], changes, searched=False)


def _rows() -> tuple[Row, ...]:
    paper = dict(zip(_METRICS, (1.90, 81.72, 1.03, 156.36, 15.52, 0.73, 0.27), strict=True))
    name = name_of("Diff-Pruning", 0.2, "one model")
    rows = [Row(name, "Diff-Pruning", "paper/dit-diff-pruning", searched=False, paper=paper)]
    for key in _PAPER:
        rows += [uniform(*key), mosaic(*key), diff_es(*key), sensitivity(*key)]
    obs_diff = {"pruning": {"method": "obs-diff"}, "search": {"sparsity": 0.5, "algorithm": "uniform"}}
    rows.append(Row(name_of("OBS-Diff", 0.5, "one model"), "OBS-Diff", "paper/dit-obs", obs_diff, searched=False))
    return tuple(rows)


def _claims() -> tuple[Claim, ...]:
    pairs = [(name_of(*key, "Diff-ES"), name_of(*key, "MosaicDiff")) for key in _PAPER]
    further = [(name_of(*key, "Diff-ES + sensitivity"), name_of(*key, "Diff-ES")) for key in _PAPER]
    return (
        *(Claim(*pair, metric) for pair in pairs for metric in ("FID", "IS", "SSIM")),
        *(Claim(*pair, metric) for pair in further for metric in ("FID", "SSIM")),
    )


TABLE1 = tables.register(
    "table1",
    Table(
        "table1",
        "Table 1: quality and cost of a pruned diffusion transformer",
        "Each pruner at equal sparsity under two schedules: three hand-made stages, our reading of MosaicDiff, and "
        "stages found by the evolutionary search. A further row spends the same MACs on the layers that matter least.",
        _rows(),
        _claims(),
        latency=(8,),
        dense=DENSE,
    ),
)
