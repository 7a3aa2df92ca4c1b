"""What a classifier says about generated images: the requested class, and a Fréchet distance on its features.

The distance is always called *Fréchet distance on classifier features*, never FID: it uses another network, and its
values cannot be compared with published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from diff_es.errors import InputError
from diff_es.metrics import frechet_distance
from diff_es.progress import track

if TYPE_CHECKING:
    from torch import Tensor


class ImageClassifier(Protocol):
    """A trained classifier, in eval mode, that reads images in [-1, 1], the range of diffusers' models."""

    training: bool

    def __call__(self, images: Tensor, /) -> Tensor:
        """Map images (N, 3, H, W) in [-1, 1] to logits (N, classes)."""

    def features(self, images: Tensor, /) -> Tensor:
        """Map images (N, 3, H, W) in [-1, 1] to the features (N, D) that the logits are made of."""


@dataclass(frozen=True)
class ClassifierScores:
    """What the classifier says about one set of images.

    Attributes:
        label_agreement: Share of images, in [0, 1], whose largest logit is that of the requested label.
        classifier_frechet: Fréchet distance on classifier features to the reference images; lower is better.
    """

    label_agreement: float
    classifier_frechet: float


def classifier_scores(
    classifier: ImageClassifier, images: Tensor, labels: Tensor, *, reference: Tensor, batch_size: int = 256
) -> ClassifierScores:
    """Compare generated images with their labels and with real images.

    An image that is not finite agrees with no label and makes the distance NaN.

    Args:
        classifier: In eval mode, on the CPU.
        images: (N, 3, H, W) in [0, 1], N ≥ 2.
        labels: (N,) integers, the requested classes.
        reference: (M, D) features of real images, from `extract_features`.
        batch_size: Images per call of the classifier.

    Raises:
        InputError: the classifier is in training mode, labels and images differ in number, images are outside
            [0, 1], or N or M is below 2.
    """
    _check_eval(classifier)
    if labels.shape != images.shape[:1]:
        raise InputError(f"labels of shape {tuple(labels.shape)} for {images.shape[0]} images; give one per image.")
    with torch.no_grad():
        logits = torch.cat([classifier(batch) for batch in track(_batches(images, batch_size), "Classifying images")])
    # argmax of NaN logits is an arbitrary class, which could be the requested one.
    agrees = (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)
    features = extract_features(classifier, images, batch_size=batch_size)
    return ClassifierScores(float(agrees.double().mean()), frechet_distance(features, reference))


def extract_features(classifier: ImageClassifier, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Return the classifier's features (N, D) of images (N, 3, H, W) in [0, 1].

    Raises:
        InputError: the classifier is in training mode, or images are outside [0, 1].
    """
    _check_eval(classifier)
    with torch.no_grad():
        batches = track(_batches(images, batch_size), "Extracting features")
        return torch.cat([classifier.features(batch) for batch in batches])


def _batches(images: Tensor, size: int) -> tuple[Tensor, ...]:
    """Cut into batches, moved from [0, 1] to the classifier's [-1, 1]; NaN passes, because it must be counted."""
    if ((images < 0) | (images > 1)).any():
        low, high = float(images.min()), float(images.max())
        raise InputError(f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}.")
    return torch.split(images * 2 - 1, size)


def _check_eval(classifier: ImageClassifier) -> None:
    """In training mode, dropout and batch statistics make every value depend on chance and on the batch."""
    if classifier.training:
        raise InputError("classifier is in training mode; call classifier.eval() first.")
