"""A classifier of one's own as judge: label agreement, and distribution metrics on its features.

They are always named after the classifier ("Fréchet distance on classifier features"), never FID or inception score:
values on another network cannot be compared with published ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from diff_es.errors import InputError
from diff_es.evaluation.judge import Judge, Judged
from diff_es.metrics import gaussian
from diff_es.progress import track

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("classifier_frechet", "classifier_inception_score", "classifier_precision", "classifier_recall")


class ImageClassifier(Protocol):
    """A trained classifier, in eval mode, that reads images in [-1, 1], the range of diffusers' models."""

    training: bool

    def features(self, images: Tensor, /) -> Tensor:
        """Map images (N, 3, H, W) in [-1, 1] to the features (N, D) that the logits are made of."""

    def head(self, features: Tensor, /) -> Tensor:
        """Map features (N, D) to logits (N, classes)."""


def classifier_judge(  # noqa: PLR0913 (each is one fact of the judge)
    classifier: ImageClassifier,
    reference: Tensor,
    *,
    reference_name: str,
    version: str,
    weights: str,
    batch_size: int = 256,
) -> Judge:
    """Make a judge of a classifier whose classes are those that images are requested by.

    Args:
        classifier: In eval mode, on the CPU.
        reference: Real images (M, H, W, 3) uint8, M ≥ 4.
        reference_name: Those images, in words.
        version: What holds the classifier ("diff-es 0.1.0, fashion-classifier").
        weights: sha256 of its weights.
        batch_size: Images per call of the classifier.

    Raises:
        InputError: the classifier is in training mode.
    """
    # In training mode, dropout and batch statistics make every value depend on chance and on the batch.
    if classifier.training:
        raise InputError("classifier is in training mode; call classifier.eval() first.")

    def look(images: Tensor) -> Judged:
        return look_at(classifier, images, batch_size=batch_size)

    features = look(reference).features
    return Judge(
        look, gaussian(features), features, reference_name, NAMES, version, weights, knows_labels=True, splits=1
    )


@torch.no_grad()
def look_at(classifier: ImageClassifier, images: Tensor, *, batch_size: int = 256) -> Judged:
    """Return the classifier's features and logits of images (N, H, W, 3) uint8."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"images must be uint8 (N, H, W, 3), got {images.dtype} {tuple(images.shape)}.")
    batches = torch.split(images, batch_size)
    features = torch.cat(
        [
            classifier.features(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)
            for batch in track(batches, "Classifying images", total=len(batches))
        ]
    )
    return Judged(features, classifier.head(features))
