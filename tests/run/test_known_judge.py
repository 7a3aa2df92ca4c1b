"""Which models have a judge, and what it is."""

from __future__ import annotations

import hashlib

import pytest
import torch

from diff_es import zoo
from diff_es.run.judges import known_judge


def test_the_shipped_models_have_the_shipped_classifier() -> None:
    judge = known_judge("zoo:fashion-dit")
    assert judge is not None and judge.knows_labels
    weights = zoo.path("fashion-classifier") / "model.safetensors"
    assert judge.weights == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert judge.version.startswith("diff-es ") and judge.version.endswith(", fashion-classifier")
    reference = zoo.reference_set()
    assert (
        judge.reference_name
        == f"{len(reference.images):,} Fashion-MNIST test images"
        == ("2,000 Fashion-MNIST test images")
    )
    assert judge.reference is not None and judge.reference.shape == (2000, 128)
    assert judge.names[0] == "classifier_frechet", "never FID"
    some = torch.from_numpy(reference.images[100:110])
    torch.testing.assert_close(judge.look(some).features, judge.reference[100:110], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["facebook/DiT-XL-2-256", "models/fashion-dit", "fashion-dit", "zoo:digits"])
def test_other_models_have_none(model: str) -> None:
    assert known_judge(model) is None
