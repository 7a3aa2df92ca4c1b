"""Table 9: LayerDrop on FLUX.1-schnell, a rectified flow of four steps."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Row, Table, tables

_METRICS = ("FID", "CLIP score", "SSIM")
_SPARSITY = 0.2


def _row(method: str, paper: tuple[float, ...] = (), **search: object) -> Row:
    return Row(
        name=f"LayerDrop 20 %, {method}",
        group="LayerDrop",
        recipe="paper/flux-layerdrop",
        changes={"search": {"sparsity": _SPARSITY, **search}},
        searched=search.get("algorithm") not in ("uniform", "three-stage"),
        paper=dict(zip(_METRICS, paper, strict=True)) if paper else {},
    )


_UNIFORM = _row("uniform", algorithm="uniform")
_MOSAIC = _row("MosaicDiff", (30.16, 0.3084, 0.4602), algorithm="three-stage")
_OURS = _row("Diff-ES", (25.88, 0.3150, 0.6782))
_FURTHER = _row("Diff-ES + sensitivity", allocation="sensitivity")

TABLE9 = tables.register(
    "table9",
    Table(
        "table9",
        "Table 9: LayerDrop on FLUX.1-schnell",
        "Four steps in four stages, a fifth of the blocks dropped: by a uniform, a hand-made and a searched schedule, "
        "and the searched one with its MACs spent on the blocks that matter least. Where a judge knows classes, the "
        "share of images that show what their caption asks for stands for the CLIP score.",
        (_UNIFORM, _MOSAIC, _OURS, _FURTHER),
        (
            *(Claim(_OURS.name, _MOSAIC.name, metric) for metric in _METRICS),
            *(Claim(_FURTHER.name, _OURS.name, metric) for metric in ("FID", "SSIM")),
        ),
        dense={"FID": 31.16, "CLIP score": 0.3187, "SSIM": 1.0},
    ),
)
