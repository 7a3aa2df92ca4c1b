"""Oracles: torch-fidelity's numbers for the same features, brute force in numpy, and sets with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from diff_es.errors import InputError
from diff_es.metrics import PrecisionRecall, precision_recall


def features(rows: int, columns: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def brute_force(real: Tensor, generated: Tensor, k: int) -> PrecisionRecall:
    a, b = real.double().numpy(), generated.double().numpy()

    def inside(points: np.ndarray, centres: np.ndarray) -> float:
        radii = np.array([np.sort([math.dist(c, other) for other in centres])[k] for c in centres])
        return float(np.mean([any(math.dist(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]))

    return PrecisionRecall(inside(b, a), inside(a, b))


@pytest.mark.parametrize("in_parts", [True, False])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("columns", "scale"), [(4, 1.0), (4, 0.4), (2048, 0.99)])
def test_it_equals_torch_fidelity(columns: int, scale: float, k: int, in_parts: bool) -> None:
    real, generated = features(211, columns, 0), features(150, columns, 1, scale)
    judge = prc_features_to_metric(generated, real, prc_neighborhood=k, save_cpu_ram=in_parts, verbose=False)
    ours = precision_recall(real, generated, k=k)
    assert ours.precision == pytest.approx(judge["precision"], rel=1e-6)
    assert ours.recall == pytest.approx(judge["recall"], rel=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_it_equals_brute_force(k: int) -> None:
    real, generated = features(60, 3, 2), features(40, 3, 3, 0.8) + 0.9
    ours = precision_recall(real, generated, k=k)
    assert ours == brute_force(real, generated, k)
    assert 0 < ours.recall < ours.precision < 1


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_repeated_images_and_equal_distances_equal_brute_force(offset: float) -> None:
    # A grid of few values: many points coincide, and many lie at exactly the radius.
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 4, (70, 2), generator=generator).float() + offset
    generated = torch.randint(2, 7, (50, 2), generator=generator).float() + offset
    assert precision_recall(real, generated) == brute_force(real, generated, 3)


def test_a_set_of_copies_has_no_room_around_it() -> None:
    one = features(1, 64, 4)
    assert precision_recall(one.expand(9, 64), one.expand(6, 64)) == PrecisionRecall(1.0, 1.0)
    real = torch.cat([one, features(30, 64, 5)])
    assert precision_recall(real, one.expand(6, 64)) == PrecisionRecall(1.0, pytest.approx(1 / 31))


def test_equal_sets_score_one_and_distant_sets_zero() -> None:
    real = features(50, 8, 0)
    assert precision_recall(real, real.flip(0)) == PrecisionRecall(1.0, 1.0)
    assert precision_recall(real, real + 100) == PrecisionRecall(0.0, 0.0)


def test_a_few_modes_are_precise_but_cover_little() -> None:
    modes = torch.eye(10).repeat_interleave(20, dim=0) * 50
    real = modes + features(200, 10, 6)
    covers_two = real[:40] + 0.01 * features(40, 10, 7)
    ours = precision_recall(real, covers_two)
    assert ours.precision == 1.0
    assert ours.recall <= 0.2


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_the_result_does_not_depend_on_the_block(block: int) -> None:
    real, generated = features(90, 6, 8), features(70, 6, 9, 0.8)
    assert precision_recall(real, generated, block=block) == precision_recall(real, generated)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_image_gives_nan(broken: float) -> None:
    real, generated = features(10, 3, 0), features(10, 3, 1)
    generated[2, 1] = broken
    for result in (precision_recall(real, generated), precision_recall(generated, real)):
        assert math.isnan(result.precision)
        assert math.isnan(result.recall)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="more than 3 images in each set, got 20 real and 3 generated"):
        precision_recall(features(20, 4, 0), features(3, 4, 1))


def test_features_of_two_classifiers_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(20, 4\).*\(20, 5\).*one classifier"):
        precision_recall(features(20, 4, 0), features(20, 5, 1))


@pytest.mark.parametrize("setting", ["k", "block"])
def test_settings_below_one_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting}=0"):
        precision_recall(features(20, 4, 0), features(20, 4, 1), **{setting: 0})
