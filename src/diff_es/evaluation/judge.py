"""Judges: networks that tell sets of images apart by their features, with the real images that they compare with.

Inception-v3 gives FID, the inception score, precision and recall. On another network the same formulas are named after
that network ("classifier_frechet"), because values on different features cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diff_es.metrics import Gaussian, frechet_between, gaussian, inception_score, precision_recall

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Judged:
    """What a judge says about images.

    Attributes:
        features: (N, D).
        logits: (N, classes).
    """

    features: Tensor
    logits: Tensor

    @classmethod
    def join(cls, parts: Sequence[Judged]) -> Judged:
        """Put consecutive images together."""
        return cls(torch.cat([part.features for part in parts]), torch.cat([part.logits for part in parts]))

    def take(self, rows: Tensor) -> Judged:
        """Return some of the images."""
        return Judged(self.features[rows], self.logits[rows])


@dataclass(frozen=True, eq=False)
class Judge:
    """A network and the real images that it compares with.

    Attributes:
        look: Maps images (N, H, W, 3) uint8 to what the judge says about them.
        gaussian: Of the real images' features, for the Fréchet distance.
        reference: Features of real images (M, D), for precision and recall; None where there are only statistics.
        reference_name: Those images, in words ("2,000 test images").
        names: Names of the Fréchet distance, the inception score, precision and recall on this network.
        version: Library and version that holds the network.
        weights: sha256 of its weights.
        knows_labels: Whether its classes are those that images are requested by.
        splits: Parts of the inception score.
    """

    look: Callable[[Tensor], Judged]
    gaussian: Gaussian
    reference: Tensor | None
    reference_name: str
    names: tuple[str, str, str, str]
    version: str
    weights: str
    knows_labels: bool = False
    splits: int = 10

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value that each number can have."""
        return dict(zip(self.names, ((0, math.inf), (1, math.inf), (0, 1), (0, 1)), strict=True))

    def distances(self, judged: Judged) -> dict[str, float]:
        """Return the Fréchet distance and the inception score, which have bootstrap intervals."""
        frechet, inception, _, _ = self.names
        return {
            frechet: frechet_between(gaussian(judged.features), self.gaussian),
            inception: inception_score(judged.logits, splits=self.splits, shuffle_seed=None).mean,
        }

    def coverage(self, judged: Judged) -> dict[str, float]:
        """Return precision and recall, empty without real images.

        They have no bootstrap interval: an image that is drawn twice is its own nearest neighbour.
        """
        if self.reference is None:
            return {}
        _, _, precision, recall = self.names
        found = precision_recall(self.reference, judged.features)
        return {precision: found.precision, recall: found.recall}
