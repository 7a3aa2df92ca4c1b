"""A judge's four numbers against torch-fidelity's own on the same features; names and what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diff_es.evaluation import Judge, Judged
from diff_es.metrics import gaussian

NAMES = ("blot_frechet", "blot_score", "blot_precision", "blot_recall")
COLUMNS, CLASSES = 24, 7


def features(rows: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(99))
    return scale * torch.randn(rows, COLUMNS, generator=generator) @ mixing


def judged_of(rows: int, seed: int = 1) -> Judged:
    logits = 2 * torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(seed + 50))
    return Judged(features(rows, seed, 0.9) + 0.3, logits)


def no_look(_: Tensor) -> Judged:
    raise AssertionError("the distances need no images")


def judge_with(reference: Tensor, *, kept: bool = True, splits: int = 10) -> Judge:
    real = reference if kept else None
    return Judge(no_look, gaussian(reference), real, "noise", NAMES, "test 1", "ab12", splits=splits)


@pytest.mark.parametrize("splits", [1, 10])
def test_distances_equal_torch_fidelity(splits: int) -> None:
    reference, judged = features(300, 0), judged_of(211)
    ours = judge_with(reference, splits=splits).distances(judged)
    statistics = [fid_features_to_statistics(part) for part in (judged.features.double(), reference.double())]
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    isc = isc_features_to_metric(judged.logits, splits=splits, shuffle=False)["inception_score_mean"]
    assert list(ours) == ["blot_frechet", "blot_score"]
    assert ours["blot_frechet"] == pytest.approx(fid, rel=1e-6)
    assert ours["blot_score"] == pytest.approx(isc, rel=1e-9)


def test_coverage_equals_torch_fidelity() -> None:
    reference, judged = features(300, 0), judged_of(211)
    ours = judge_with(reference).coverage(judged)
    theirs = prc_features_to_metric(judged.features, reference, prc_neighborhood=3, save_cpu_ram=False, verbose=False)
    assert list(ours) == ["blot_precision", "blot_recall"]
    assert ours["blot_precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours["blot_recall"] == pytest.approx(theirs["recall"], rel=1e-6)
    assert ours["blot_precision"] != ours["blot_recall"], "the test could not tell them apart"


def test_statistics_alone_give_no_coverage() -> None:
    """A reference may be stored as mean and covariance only."""
    reference, judged = features(300, 0), judged_of(50)
    whole, statistics = judge_with(reference), judge_with(reference, kept=False)
    assert statistics.coverage(judged) == {}
    assert statistics.distances(judged) == whole.distances(judged)


def test_the_real_images_themselves_are_the_best() -> None:
    reference = features(60, 0)
    own = Judged(reference, torch.zeros(60, CLASSES))
    judge = judge_with(reference)
    assert judge.distances(own)["blot_frechet"] == pytest.approx(0, abs=1e-6)
    assert judge.coverage(own) == {"blot_precision": 1.0, "blot_recall": 1.0}
    assert judge.distances(judged_of(60))["blot_frechet"] > 1


def test_one_broken_image_breaks_every_number() -> None:
    judged = judged_of(40)
    judged.features[3], judged.logits[3] = math.nan, math.nan
    judge = judge_with(features(60, 0))
    assert all(math.isnan(value) for value in {**judge.distances(judged), **judge.coverage(judged)}.values())


def test_rows_are_taken_together_and_again() -> None:
    judged = judged_of(5)
    taken = judged.take(torch.tensor([4, 0, 4]))
    np.testing.assert_array_equal(taken.features, judged.features[[4, 0, 4]])
    np.testing.assert_array_equal(taken.logits, judged.logits[[4, 0, 4]])
