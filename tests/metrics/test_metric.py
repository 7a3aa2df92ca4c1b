"""The metric record and its registry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diff_es.errors import InputError
from diff_es.metrics import Metric, metrics, register_metric


def largest_difference(candidate: Tensor, dense: Tensor) -> Tensor:
    return (candidate - dense).abs().flatten(1).amax(dim=1)


@pytest.mark.parametrize(
    ("name", "higher_is_better", "needs"),
    [
        ("ssim", True, "images"),
        ("psnr", True, "images"),
        ("latent_mse", False, "latents"),
        ("latent_cosine", True, "latents"),
    ],
)
def test_built_in_metrics_know_their_direction(name: str, higher_is_better: bool, needs: str) -> None:
    metric = metrics[name]
    near = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    far = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    nudged = (near + 0.01).clamp(max=1)
    assert (metric.higher_is_better, metric.needs) == (higher_is_better, needs)
    assert (metric.score(nudged, near) > metric.score(far, near)).all()
    assert any(letter.isdigit() for letter in metric.version)


def test_a_user_metric_is_found_by_name() -> None:
    register_metric("largest_difference", largest_difference, higher_is_better=False, needs="latents")
    candidate, dense = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    candidate[1, 0, 0, 0] = 3.0
    assert metrics["largest_difference"](candidate, dense).tolist() == [0.0, 3.0]
    assert metrics["largest_difference"].score(candidate, dense).tolist() == [0.0, -3.0]


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(InputError, match="'ssim' is already registered"):
        register_metric("ssim", largest_difference, higher_is_better=True, needs="images")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'ssim'"):
        metrics["sim"]


def test_what_a_metric_needs_is_one_of_two_words() -> None:
    with pytest.raises(InputError, match="needs='pixels'"):
        Metric("odd", largest_difference, higher_is_better=True, needs="pixels")  # type: ignore[arg-type]


def test_different_shapes_are_refused_instead_of_broadcast() -> None:
    with pytest.raises(InputError, match="differ"):
        metrics["latent_mse"](torch.zeros(2, 4, 8, 8), torch.zeros(1, 4, 8, 8))


def test_a_function_that_forgets_the_samples_is_refused() -> None:
    careless = Metric("mean", lambda a, b: (a - b).mean(), higher_is_better=False, needs="latents")
    with pytest.raises(InputError, match=r"one float per sample, shape \(2,\)"):
        careless(torch.zeros(2, 4), torch.zeros(2, 4))


def brightness(candidate: Tensor) -> Tensor:
    return candidate.flatten(1).mean(dim=1)


def test_a_metric_without_a_reference_reads_the_candidate_alone() -> None:
    metric = register_metric("brightness", brightness, higher_is_better=False, needs="images", reference=False)
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.25, 0.5)])
    assert metrics["brightness"] is metric and not metric.reference
    assert metric(images).tolist() == [0.25, 0.5]
    assert metric.score(images).tolist() == [-0.25, -0.5]
    # Callers that always hold the dense result need no second path; its shape does not matter then.
    assert metric(images, torch.zeros(1, 3, 8, 8)).tolist() == [0.25, 0.5]


def test_a_metric_with_a_reference_asks_for_it() -> None:
    with pytest.raises(InputError, match="'ssim' compares with the dense result, which was not given"):
        metrics["ssim"](torch.zeros(2, 3, 16, 16))


def test_a_function_without_a_reference_that_forgets_the_samples_is_refused() -> None:
    careless = Metric("mean", lambda images: images.mean(), higher_is_better=True, needs="images", reference=False)
    with pytest.raises(InputError, match=r"one float per sample, shape \(2,\)"):
        careless(torch.zeros(2, 3, 4, 4))
