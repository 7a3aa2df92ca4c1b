"""Quality against direct means, one resample recomputed by hand, and what a broken image does to every number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diff_es.evaluation import (
    ImageScores,
    Judge,
    Judged,
    Measurement,
    Quality,
    Samples,
    agreement,
    assess,
    fidelity,
    measurements,
)
from diff_es.evaluation.bootstrap import RESAMPLES, resamples
from diff_es.metrics import Metric, gaussian, metrics
from diff_es.sampling import SamplerConfig
from largest_tensor import LargestTensor

NAMES = ("blot_frechet", "blot_score", "blot_precision", "blot_recall")
COUNT, CLASSES = 40, 5
SAMPLER = SamplerConfig(20, 4.0)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def no_look(_: Tensor) -> Judged:
    raise AssertionError("the images were looked at already")


def judge_of(columns: int = 6) -> Judge:
    reference = noise(60, columns, seed=0)
    return Judge(no_look, gaussian(reference), reference, "60 images of noise", NAMES, "test 1", "ab12", splits=1)


def scores_of(columns: int = 6) -> ImageScores:
    judged = Judged(noise(COUNT, columns, seed=1) * 0.8 + 0.2, noise(COUNT, CLASSES, seed=2))
    values = {"ssim": torch.rand(COUNT, generator=torch.Generator().manual_seed(3)).double()}
    values["latent_mse"] = noise(COUNT, seed=4).double().square()
    return ImageScores(values, agreement(judged, torch.arange(COUNT) % CLASSES), judged)


@pytest.fixture(scope="module")
def scores() -> ImageScores:
    return scores_of()


@pytest.fixture(scope="module")
def quality(scores: ImageScores) -> Quality:
    return assess(scores, judge_of())


def by_hand(scores: ImageScores, rows: np.ndarray) -> dict[str, float]:
    """All numbers that have replicates, of some rows, by numpy and torch-fidelity."""
    assert scores.judged is not None and scores.agrees is not None
    features, logits = (part.double().numpy()[rows] for part in (scores.judged.features, scores.judged.logits))
    own, real = (fid_features_to_statistics(torch.from_numpy(part)) for part in (features, real_features()))
    labels = (np.arange(COUNT) % CLASSES)[rows]
    return {
        "ssim": scores.fidelity["ssim"].numpy()[rows].mean(),
        "latent_mse": scores.fidelity["latent_mse"].numpy()[rows].mean(),
        "label_agreement": (logits.argmax(axis=1) == labels).mean(),
        "blot_frechet": fid_statistics_to_metric(own, real, verbose=False)["frechet_inception_distance"],
        "blot_score": isc_features_to_metric(torch.from_numpy(logits), splits=1)["inception_score_mean"],
    }


def real_features() -> np.ndarray:
    return noise(60, 6, seed=0).double().numpy()


def test_values_are_those_of_all_images(scores: ImageScores, quality: Quality) -> None:
    assert scores.judged is not None
    expected = by_hand(scores, np.arange(COUNT))
    covered = prc_features_to_metric(
        scores.judged.features, noise(60, 6, seed=0), prc_neighborhood=3, save_cpu_ram=False, verbose=False
    )
    expected |= {"blot_precision": covered["precision"], "blot_recall": covered["recall"]}
    assert list(quality.values) == list(expected)
    assert quality.values == pytest.approx(expected, rel=1e-6)
    assert 0 < quality.values["label_agreement"] < 0.6, "the test could not tell agreement from its contrary"


@pytest.mark.parametrize("draw", [0, 17, RESAMPLES - 1])
def test_a_replicate_is_every_number_on_one_resample(scores: ImageScores, quality: Quality, draw: int) -> None:
    expected = by_hand(scores, resamples(COUNT)[draw])
    assert {name: drawn[draw] for name, drawn in quality.replicates.items()} == pytest.approx(expected, rel=1e-6)
    assert all(len(drawn) == RESAMPLES and len(set(drawn)) > 5 for drawn in quality.replicates.values())


def test_precision_and_recall_have_no_replicates(quality: Quality) -> None:
    assert set(quality.values) - set(quality.replicates) == {"blot_precision", "blot_recall"}


def test_without_a_judge_there_is_only_fidelity(scores: ImageScores) -> None:
    quality = assess(ImageScores(scores.fidelity), None)
    assert set(quality.values) == set(quality.replicates) == {"ssim", "latent_mse"}
    assert quality.values["ssim"] == pytest.approx(float(scores.fidelity["ssim"].mean()))


def test_without_a_dense_model_there_is_only_what_the_judge_says(scores: ImageScores, quality: Quality) -> None:
    alone = assess(ImageScores({}, scores.agrees, scores.judged), judge_of())
    kept = {name: value for name, value in quality.values.items() if name not in {"ssim", "latent_mse"}}
    assert alone.values == kept
    assert alone.replicates == {name: quality.replicates[name] for name in alone.replicates}
    unlabelled = assess(ImageScores({}, None, scores.judged), judge_of())
    assert set(unlabelled.values) == set(kept) - {"label_agreement"}


@pytest.mark.parametrize(("columns", "drawn"), [(12, True), (513, False)])
def test_wide_features_have_no_distance_replicates(columns: int, drawn: bool) -> None:
    quality = assess(scores_of(columns), judge_of(columns))
    assert set(NAMES) <= set(quality.values)
    assert (NAMES[0] in quality.replicates) is (NAMES[1] in quality.replicates) is drawn
    assert {"ssim", "latent_mse", "label_agreement"} <= set(quality.replicates)
    records = {own.metric: own for own in measured(quality, judge_of(columns))}
    assert (records[NAMES[0]].interval is not None) is drawn


def test_wide_features_are_not_copied_for_resamples_that_do_not_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 images of 2,048 features: 400 MB, two hundred times."""
    monkeypatch.setattr(Judged, "take", lambda *_: pytest.fail("the features were copied"))
    assert set(assess(scores_of(513), judge_of(513)).replicates) == {"ssim", "latent_mse", "label_agreement"}


def samples_of(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 16, 16, 3), generator=generator).to(torch.uint8)
    return {"images": images, "latents": torch.randn(3, 4, 2, 2, generator=generator)}


def test_large_images_are_compared_a_few_at_a_time() -> None:
    """SSIM of 64 images of 1024 × 1024 at once takes 19 GB."""
    count, size = 12, 512
    own, dense = (torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8) for _ in range(2))
    with LargestTensor() as seen:
        found = fidelity({"images": own}, {"images": dense}, ("ssim",))["ssim"]
    assert seen.elements < 1.1 * 5 * 3 * 2**20, "five maps of three colours of a mebipixel"
    each = [fidelity({"images": own[i : i + 1]}, {"images": dense[i : i + 1]}, ("ssim",))["ssim"] for i in range(count)]
    torch.testing.assert_close(found, torch.cat(each))


def test_fidelity_reads_stored_samples_as_the_metrics_do() -> None:
    own, dense = samples_of(0), samples_of(1)
    found = fidelity(own, dense, ("latent_mse", "psnr", "ssim"))
    assert list(found) == ["latent_mse", "psnr", "ssim"]
    a, b = (side["latents"].double().numpy() for side in (own, dense))
    np.testing.assert_allclose(found["latent_mse"], ((a - b) ** 2).mean(axis=(1, 2, 3)), rtol=1e-6)
    a, b = (side["images"].numpy() / 255.0 for side in (own, dense))
    np.testing.assert_allclose(found["psnr"], -10 * np.log10(((a - b) ** 2).mean(axis=(1, 2, 3))), rtol=1e-5)
    unit = [torch.from_numpy(side).permute(0, 3, 1, 2).float() for side in (a, b)]
    np.testing.assert_allclose(found["ssim"], metrics["ssim"](*unit), atol=1e-5)
    assert all(values.dtype == torch.float64 for values in found.values())
    assert fidelity(own, own, ("ssim",))["ssim"].tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_latents_that_are_not_finite_break_their_image_alone() -> None:
    own, dense = samples_of(0), samples_of(1)
    own["latents"][1, 0, 0, 0] = math.nan
    assert fidelity(own, dense, ("latent_mse",))["latent_mse"].isfinite().tolist() == [True, False, True]


def test_agreement_is_with_the_requested_label() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0], [0.0, 1.0, 2.0], [-3.0, -1.0, -2.0]])
    judged = Judged(torch.zeros(4, 1), logits)
    assert agreement(judged, torch.tensor([0, 1, 2, 1])).tolist() == [1, 1, 1, 1]
    assert agreement(judged, torch.tensor([1, 1, 0, 1])).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_image_agrees_with_no_label(broken: float) -> None:
    judged = Judged(torch.zeros(2, 1), torch.tensor([[broken] * 3, [0.0, broken, 1.0]]))
    for label in range(3):
        assert agreement(judged, torch.full((2,), label)).tolist() == [0, 0]


def test_a_broken_image_breaks_the_means_and_the_distances() -> None:
    scores = scores_of()
    assert scores.judged is not None
    scores.fidelity["ssim"][7] = math.nan
    scores.fidelity["latent_mse"][7] = math.nan
    scores.judged.features[7], scores.judged.logits[7] = math.nan, math.nan
    judged = ImageScores(scores.fidelity, agreement(scores.judged, torch.arange(COUNT) % CLASSES), scores.judged)
    quality = assess(judged, judge_of())
    agreed = quality.values.pop("label_agreement")
    assert math.isfinite(agreed)
    assert all(math.isnan(value) for value in quality.values.values()), quality.values
    for own in measured(quality, judge_of()):
        assert own.interval is None or all(math.isnan(end) for end in own.interval)


def measured(quality: Quality, judge: Judge | None) -> tuple[Measurement, ...]:
    return measurements(quality, judge, Samples(COUNT, 70), SAMPLER, "cpu")


def test_a_measurement_says_what_it_depends_on(quality: Quality) -> None:
    records = {own.metric: own for own in measured(quality, judge_of())}
    assert list(records) == list(quality.values)
    for name, own in records.items():
        assert own.value == quality.values[name]
        assert (own.samples, own.sampling, own.device) == (Samples(COUNT, 70), SAMPLER, "cpu")
        judged = name not in {"ssim", "latent_mse"}
        assert (own.computed_by, own.weights) == (("test 1", "ab12") if judged else (metrics[name].version, ""))
    lower = {name for name, own in records.items() if not own.higher_is_better}
    assert lower == {"latent_mse", "blot_frechet"}
    assert {name: own.reference for name, own in records.items()} == {
        "ssim": "dense",
        "latent_mse": "dense",
        "label_agreement": "",
        "blot_frechet": "60 images of noise",
        "blot_score": "",
        "blot_precision": "60 images of noise",
        "blot_recall": "60 images of noise",
    }


def test_the_interval_lies_around_the_value(quality: Quality) -> None:
    for own in measured(quality, judge_of()):
        drawn = quality.replicates.get(own.metric)
        if drawn is None:
            assert own.interval is None
            continue
        assert own.interval is not None
        low, high = np.sort(np.array(drawn) - np.mean(drawn))[[4, -5]]  # the ranks of 2.5 % and 97.5 % of 200
        step = 0.2 * (high - low)
        np.testing.assert_allclose(own.interval, (own.value + low, own.value + high), atol=step)
        assert own.interval[0] < own.value < own.interval[1]


def test_no_interval_leaves_the_range_of_its_number() -> None:
    values = {"ssim": 0.9, "latent_mse": 0.1, "label_agreement": 0.9, "blot_frechet": 0.1, "blot_score": 1.5}
    spread = tuple(np.linspace(-100, 100, RESAMPLES))
    records = measured(Quality(values, dict.fromkeys(values, spread)), judge_of())
    ends = {own.metric: own.interval for own in records if own.interval is not None}
    assert ends["ssim"] == (-1, 1) and ends["label_agreement"] == (0, 1)
    for name, least in (("latent_mse", 0), ("blot_frechet", 0), ("blot_score", 1)):
        assert ends[name][0] == least and ends[name][1] > 90


def test_a_metric_without_a_reference_is_not_compared_with_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at the image alone, and names the weights of the network behind it."""
    own = Metric(
        "brightness",
        lambda images: images.flatten(1).mean(dim=1),
        higher_is_better=False,
        needs="images",
        version="test 2",
        reference=False,
        weights_sha256=lambda: "cd34",
    )
    monkeypatch.setitem(metrics._entries, "brightness", own)
    (record,) = measured(Quality({"brightness": 0.5}, {}), None)
    assert (record.reference, record.higher_is_better, record.interval) == ("", False, None)
    assert (record.computed_by, record.weights) == ("test 2", "cd34")
    values = fidelity(samples_of(0), samples_of(1), ("brightness",))["brightness"]
    expected = samples_of(0)["images"].double().mean(dim=(1, 2, 3)) / 255
    np.testing.assert_allclose(values, expected, rtol=1e-5)
