"""Label agreement and the Fréchet distance, with classifiers whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from diff_es.errors import InputError
from diff_es.evaluation import classifier_scores, extract_features
from diff_es.zoo.classifier import FashionClassifier


class ChannelClassifier(nn.Module):
    """Says the class is the brightest channel; its features are quarter means of all channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture
def images() -> Tensor:
    """Ten noisy images whose brightest channels are 0, 1, 2, 0, 1, 2, …"""
    base = 0.4 * torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    base[range(10), [i % 3 for i in range(10)]] += 0.5
    return base


def reference() -> Tensor:
    return torch.rand(40, 12, generator=torch.Generator().manual_seed(1))


def test_agreement_is_the_share_of_requested_labels(images: Tensor) -> None:
    classifier = ChannelClassifier().eval()
    right = torch.tensor([i % 3 for i in range(10)])
    wrong = right.clone()
    wrong[[0, 4, 9]] += 1
    features = reference()
    assert classifier_scores(classifier, images, right, reference=features).label_agreement == 1.0
    assert classifier_scores(classifier, images, wrong, reference=features).label_agreement == pytest.approx(0.7)


def test_the_distance_equals_scipy_on_the_same_features(images: Tensor) -> None:
    a, b = (
        (2 * images - 1).reshape(10, 3, 2, 4, 2, 4).mean(dim=(3, 5)).reshape(10, 12).double().numpy(),
        reference().double().numpy(),
    )
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # Ten images span 9 of 12 dimensions; the symmetric form keeps scipy's square roots away from a singular matrix.
    root_b = scipy.linalg.sqrtm(cov_b)
    root_trace = np.sqrt(np.clip(np.linalg.eigvalsh(root_b @ cov_a @ root_b), 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * root_trace
    labels = torch.zeros(10, dtype=torch.int64)
    scores = classifier_scores(ChannelClassifier().eval(), images, labels, reference=reference())
    assert scores.classifier_frechet == pytest.approx(expected, rel=1e-4)


def test_scores_do_not_depend_on_the_batch(images: Tensor) -> None:
    labels = torch.tensor([0] * 10)
    small, large = (
        classifier_scores(ChannelClassifier().eval(), images, labels, reference=reference(), batch_size=size)
        for size in (3, 10)
    )
    assert small.label_agreement == large.label_agreement == 0.4
    assert small.classifier_frechet == pytest.approx(large.classifier_frechet, rel=1e-6)


def test_a_broken_image_agrees_with_no_label(images: Tensor) -> None:
    images[:] = torch.nan
    labels = ChannelClassifier()(images).argmax(dim=1)
    scores = classifier_scores(ChannelClassifier().eval(), images, labels, reference=reference())
    assert scores.label_agreement == 0.0
    assert math.isnan(scores.classifier_frechet)


def test_features_keep_the_order_of_the_images(images: Tensor) -> None:
    classifier = ChannelClassifier().eval()
    assert torch.equal(extract_features(classifier, images, batch_size=4), classifier.features(2 * images - 1))


def test_training_mode_is_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match=r"call classifier\.eval\(\)"):
        extract_features(ChannelClassifier().train(), images)


def test_labels_must_match_the_images(images: Tensor) -> None:
    with pytest.raises(InputError, match="10 images"):
        classifier_scores(ChannelClassifier().eval(), images, torch.zeros(1), reference=reference())


def test_images_of_another_range_are_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\]"):
        extract_features(ChannelClassifier().eval(), 2 * images - 1)


def test_the_classifier_of_the_zoo_is_one(images: Tensor) -> None:
    classifier = FashionClassifier().eval()
    larger = nn.functional.interpolate(images, 32)
    reference_features = extract_features(classifier, larger.flip(0).square())
    scores = classifier_scores(classifier, larger, torch.zeros(10), reference=reference_features)
    assert 0 <= scores.label_agreement <= 1
    assert scores.classifier_frechet > 0
