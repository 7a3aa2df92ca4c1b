"""Precision and recall of a set of generated images: how many look real, and how much of the real set they cover.

On the pool3 features of Inception-v3 with k = 3 these are the numbers of the ADM protocol; torch-fidelity's own default
is another network, VGG16. On another classifier they are called by its name, because values on different features
cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diff_es.errors import InputError
from diff_es.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

#: Distances are equal if their squares differ by less than this share of the two squared lengths: the formula below
#: rounds to about 1e-13 of them, which would put points at exactly the radius, such as copies, in or out by chance.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PrecisionRecall:
    """Both shares of one comparison; higher is better.

    Attributes:
        precision: Share of the generated images, in [0, 1], that lie inside the manifold of the real ones.
        recall: Share of the real images, in [0, 1], that lie inside the manifold of the generated ones.
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, generated: Tensor, *, k: int = 3, block: int = 256) -> PrecisionRecall:
    """Compare two sets of features by their k-nearest-neighbour manifolds (Kynkäänniemi et al. 2019, eq. 1 and 2).

    The manifold of a set is the union of balls around its members, each of the radius of the member's k-th neighbour
    *within the set*, itself not counted; a point at exactly that distance is inside. Distances are decided in float64
    on the features' device, `block` rows at a time: memory is that of the features and of a few `block` × N matrices,
    never N × N (50,000 images: about 0.1 GB per matrix). ADM's evaluator decides in half precision where that does not
    overflow, so its values can differ slightly.

    Args:
        real: (N, D), N > k.
        generated: (M, D), M > k, of the same classifier.
        k: The neighbour that gives the radius, ≥ 1.
        block: Rows compared at a time, ≥ 1; changes memory and speed, not the result.

    Returns:
        Precision and recall; NaN if any feature is not finite.

    Raises:
        InputError: not matrices of equal D, or too few rows for k.
    """
    _check(real, generated, k, block)
    centre = real.detach().to(torch.float64).mean(dim=0)
    a = real.detach().to(torch.float64) - centre  # shorter vectors lose fewer digits in the expanded formula
    b = generated.detach().to(real.device, torch.float64) - centre
    if not (a.isfinite().all() and b.isfinite().all()):
        return PrecisionRecall(float("nan"), float("nan"))
    return PrecisionRecall(precision=_share_inside(b, a, k, block), recall=_share_inside(a, b, k, block))


def _check(real: Tensor, generated: Tensor, k: int, block: int) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InputError(
            f"real {tuple(real.shape)} and generated {tuple(generated.shape)} must be features (N, D) and (M, D) "
            "of one classifier."
        )
    if k < 1 or block < 1:
        raise InputError(f"k={k} and block={block} must be 1 or more.")
    if min(len(real), len(generated)) <= k:
        raise InputError(
            f"k={k} needs more than {k} images in each set, got {len(real)} real and {len(generated)} generated."
        )


def _share_inside(points: Tensor, centres: Tensor, k: int, block: int) -> float:
    """Return the share of `points` that lie in a ball around one of `centres`."""
    # The smallest of the k + 1 is the distance of a member to itself.
    neighbours = _blocks(centres, centres, block, "Measuring neighbourhoods")
    radii = torch.cat([squared.kthvalue(k + 1, dim=1).values for squared, _ in neighbours])
    looked_up = _blocks(points, centres, block, "Looking for neighbours")
    inside = [(squared - rounding <= radii).any(dim=1) for squared, rounding in looked_up]
    return float(torch.cat(inside).double().mean())


def _blocks(rows: Tensor, columns: Tensor, block: int, description: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the squared distances between `rows` and all `columns`, (≤ block, number of columns), and their error."""
    lengths = columns.square().sum(dim=1)
    parts = torch.split(rows, block)
    for part in track(parts, description, total=len(parts)):
        both = part.square().sum(dim=1, keepdim=True) + lengths
        yield torch.addmm(both, part, columns.T, alpha=-2), _ROUNDING * both
