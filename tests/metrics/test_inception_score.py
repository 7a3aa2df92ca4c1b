"""Oracles: torch-fidelity's own score of the same logits, plain numpy, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric

from diff_es.errors import InputError
from diff_es.metrics import inception_score


def logits(images: int, classes: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(images, classes, generator=torch.Generator().manual_seed(seed))


def numpy_scores(values: np.ndarray, splits: int) -> list[float]:
    """Straight from the definition, one image at a time."""
    p = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    scores = []
    for index in range(splits):
        part = p[index * len(p) // splits : (index + 1) * len(p) // splits]
        marginal = part.mean(axis=0)
        scores.append(math.exp(np.mean([(row * np.log(row / marginal)).sum() for row in part])))
    return scores


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("images", "classes", "splits"), [(203, 17, 10), (64, 1008, 10), (10, 5, 1), (7, 3, 7)])
def test_it_equals_torch_fidelity(images: int, classes: int, splits: int, shuffle: bool) -> None:
    values = logits(images, classes)
    judge = isc_features_to_metric(values, splits=splits, shuffle=shuffle)
    score = inception_score(values, splits=splits, **({} if shuffle else {"shuffle_seed": None}))
    assert score.mean == pytest.approx(judge["inception_score_mean"], rel=1e-10)
    assert score.std == pytest.approx(judge["inception_score_std"], rel=1e-10, abs=1e-12)


def test_it_equals_the_definition() -> None:
    values = logits(45, 6)
    expected = numpy_scores(values.double().numpy(), splits=4)
    score = inception_score(values, splits=4, shuffle_seed=None)
    assert score.mean == pytest.approx(np.mean(expected), rel=1e-10)
    assert score.std == pytest.approx(np.std(expected), rel=1e-10)


def test_sure_and_varied_answers_score_the_number_of_classes() -> None:
    # Logits of 1000 would overflow a naive exponential.
    assert inception_score(1000 * torch.eye(7).repeat(3, 1), splits=1).mean == pytest.approx(7)


def test_one_answer_for_all_scores_one() -> None:
    score = inception_score(logits(1, 9).expand(20, 9))
    assert score.mean == pytest.approx(1)
    assert score.std == pytest.approx(0, abs=1e-12)


def test_the_permutation_matters_where_images_come_sorted_by_class() -> None:
    by_class = 20 * torch.eye(10).repeat_interleave(50, dim=0)
    assert inception_score(by_class, shuffle_seed=None).mean == pytest.approx(1)
    assert inception_score(by_class).mean > 8


def test_a_broken_image_gives_nan() -> None:
    values = logits(20, 4)
    values[3, 2] = math.inf
    score = inception_score(values)
    assert math.isnan(score.mean)
    assert math.isnan(score.std)


@pytest.mark.parametrize(("shape", "splits"), [((9, 4), 10), ((9, 4), 0), ((9,), 1)])
def test_too_few_images_are_refused(shape: tuple[int, ...], splits: int) -> None:
    with pytest.raises(InputError, match=rf"splits={splits}: give a matrix"):
        inception_score(torch.zeros(shape), splits=splits)
