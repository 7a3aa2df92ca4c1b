"""Tables 2, 4 and 8: pruners, schedules and fitness metrics on SDXL, a U-Net."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Row, Table, tables

#: (pruner, sparsity) → the paper's FID, CLIP score and SSIM: of MosaicDiff in the first line, of Diff-ES in the second.
_PAPER = {
    ("LayerDrop", 0.1): ((25.16, 0.3198, 0.6341), (24.12, 0.3214, 0.767)),
    ("LayerDrop", 0.2): ((29.99, 0.3157, 0.5687), (24.56, 0.3193, 0.7016)),
    ("LayerDrop", 0.3): ((39.27, 0.3096, 0.5302), (29.71, 0.3144, 0.6737)),
    ("Wanda", 0.1): ((25.83, 0.3226, 0.6292), (25.62, 0.3222, 0.6457)),
    ("Wanda", 0.2): ((31.22, 0.3183, 0.5991), (26.99, 0.3203, 0.6317)),
    ("Wanda", 0.3): ((37.24, 0.3111, 0.5655), (36.88, 0.3139, 0.6179)),
    ("OBS", 0.1): ((25.32, 0.3212, 0.6352), (24.80, 0.3221, 0.8752)),
    ("OBS", 0.2): ((39.6, 0.3095, 0.5462), (24.48, 0.3222, 0.8341)),
    ("OBS", 0.3): ((59.09, 0.3020, 0.5367), (25.87, 0.3214, 0.7118)),
}
#: (fitness, sparsity) → the same of OBS (table 8; table 4 is its rows at 30 %).
_FITNESS = {
    ("clip_iqa", 0.1): (25.42, 0.3211, 0.7725),
    ("clip_iqa", 0.2): (25.34, 0.3215, 0.7146),
    ("clip_iqa", 0.3): (25.87, 0.3214, 0.7118),
    ("clip_iqa", 0.4): (28.46, 0.3209, 0.6980),
    ("clip_iqa", 0.5): (41.20, 0.3158, 0.6994),
    ("topiq", 0.1): (25.19, 0.3214, 0.7500),
    ("topiq", 0.2): (25.15, 0.3211, 0.6990),
    ("topiq", 0.3): (26.04, 0.3206, 0.6777),
    ("topiq", 0.4): (28.71, 0.3196, 0.7043),
    ("topiq", 0.5): (36.47, 0.3180, 0.6769),
    ("ssim", 0.1): (24.80, 0.3221, 0.8785),
    ("ssim", 0.2): (24.48, 0.3222, 0.8341),
    ("ssim", 0.3): (26.03, 0.3223, 0.8220),
    ("ssim", 0.4): (28.92, 0.3208, 0.7740),
    ("ssim", 0.5): (42.69, 0.3154, 0.7333),
}
#: Fitness metrics that need no weights, of which the paper has one only.
_OURS = ("latent_mse", "latent_cosine")
_METRICS = ("FID", "CLIP score", "SSIM")
_RECIPES = {"LayerDrop": "paper/sdxl-layerdrop", "Wanda": "paper/sdxl-wanda", "OBS": "paper/sdxl-obs"}
#: The dense SDXL with 20 steps.
DENSE = {"MACs": 67.64, "FID": 25.46, "CLIP score": 0.3219, "SSIM": 1.0}


def _paper(values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(_METRICS, values, strict=True))


def _name(group: str, sparsity: float, method: str) -> str:
    return f"{group} {sparsity * 100:.4g} %, {method}"


def _row(group: str, sparsity: float, method: str, paper: tuple[float, ...] = (), **search: object) -> Row:
    values = _paper(paper) if paper else {}
    searched = search.get("algorithm") not in ("uniform", "three-stage")
    # The paper searches OBS at 10 and 20 % by SSIM, all else by CLIP-IQA.
    metric = {"metric": "ssim"} if searched and group == "OBS" and sparsity < 0.3 else {}
    changes = {"search": {"sparsity": sparsity, **metric, **search}}
    return Row(_name(group, sparsity, method), group, _RECIPES[group], changes, searched=searched, paper=values)


def diff_es(group: str, sparsity: float) -> Row:
    """The paper's method: stage levels searched, the same share of every layer."""
    return _row(group, sparsity, "Diff-ES", _PAPER[group, sparsity][1])


def _rows_of(group: str, sparsity: float) -> tuple[Row, ...]:
    mosaic, _ = _PAPER[group, sparsity]
    return (
        _row(group, sparsity, "uniform", algorithm="uniform"),
        _row(group, sparsity, "MosaicDiff", mosaic, algorithm="three-stage"),
        diff_es(group, sparsity),
        _row(group, sparsity, "Diff-ES + sensitivity", allocation="sensitivity"),
    )


def _one_model(group: str, recipe: str, sparsity: float, paper: tuple[float, ...]) -> Row:
    name = _name(group, sparsity, "one model")
    return Row(name, group, recipe, {"search": {"sparsity": sparsity}}, searched=False, paper=_paper(paper))


def _claims() -> tuple[Claim, ...]:
    ours = [_name(*key, "Diff-ES") for key in _PAPER]
    mosaic = [_name(*key, "MosaicDiff") for key in _PAPER]
    further = [_name(*key, "Diff-ES + sensitivity") for key in _PAPER]
    return (
        *(Claim(*pair, metric) for pair in zip(ours, mosaic, strict=True) for metric in ("FID", "CLIP score", "SSIM")),
        *(Claim(*pair, metric) for pair in zip(further, ours, strict=True) for metric in ("FID", "SSIM")),
    )


TABLE2 = tables.register(
    "table2",
    Table(
        "table2",
        "Table 2: pruners and schedules on SDXL",
        "Each pruner at 10, 20 and 30 % under a uniform, a hand-made and a searched schedule, and the searched one "
        "with its MACs spent on the layers that matter least. Where a judge knows classes, the share of images that "
        "show what their caption asks for stands for the CLIP score.",
        (
            _one_model("Diff-Pruning", "paper/sdxl-diff-pruning", 0.2, (96.5, 0.2702, 0.5887)),
            _one_model("OBS-Diff", "paper/sdxl-obs-diff", 0.3, (28.49, 0.3215, 0.6760)),
            *(row for key in _PAPER for row in _rows_of(*key)),
        ),
        _claims(),
        dense=DENSE,
    ),
)


def by_fitness(metric: str, sparsity: float) -> Row:
    """OBS searched by another fitness metric; networks need weights that cannot be shipped."""
    paper = _FITNESS.get((metric, sparsity))
    return Row(
        name=f"OBS {sparsity * 100:.4g} %, by {metric}",
        group=metric,
        recipe=_RECIPES["OBS"],
        changes={"search": {"sparsity": sparsity, "metric": metric}},
        paper=_paper(paper) if paper else {},
        scale="paper" if metric in ("clip_iqa", "topiq") else "",
    )


def _fitness_claims(sparsity: float, metrics: tuple[str, ...]) -> tuple[Claim, ...]:
    """A search by SSIM ends at a higher SSIM than one by any other metric."""
    own = by_fitness("ssim", sparsity).name
    return tuple(Claim(own, by_fitness(metric, sparsity).name, "SSIM") for metric in metrics if metric != "ssim")


_THEIRS = ("clip_iqa", "topiq", "ssim")
TABLE4 = tables.register(
    "table4",
    Table(
        "table4",
        "Table 4: fitness metrics on SDXL at 30 %",
        "OBS at 30 %, the stages searched by different fitness metrics. CLIP-IQA and TOPIQ need weights that cannot be "
        "shipped; their rows exist at the paper's scale only.",
        tuple(by_fitness(metric, 0.3) for metric in (*_THEIRS, *_OURS)),
        _fitness_claims(0.3, (*_THEIRS, *_OURS)),
        dense=DENSE,
    ),
)
_SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5)
#: One of ours is enough here; table 4 compares them.
_IN_TABLE8 = (*_THEIRS, _OURS[0])
TABLE8 = tables.register(
    "table8",
    Table(
        "table8",
        "Table 8: fitness metrics on SDXL from 10 to 50 %",
        "OBS at five sparsities, the stages searched by different fitness metrics. CLIP-IQA and TOPIQ need weights "
        "that cannot be shipped; their rows exist at the paper's scale only.",
        tuple(by_fitness(metric, sparsity) for metric in _IN_TABLE8 for sparsity in _SPARSITIES),
        tuple(claim for sparsity in _SPARSITIES for claim in _fitness_claims(sparsity, _IN_TABLE8)),
        dense=DENSE,
    ),
)
