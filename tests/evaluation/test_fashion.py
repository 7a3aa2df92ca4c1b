"""The protocol of the shipped models: real test images are recognised, noise is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diff_es import zoo
from diff_es.evaluation import Measurement, Samples, stored
from diff_es.evaluation.protocol import Given
from diff_es.evaluation.protocols import protocols
from diff_es.evaluation.quality import Measured
from diff_es.sampling import Requests, SamplerConfig

COUNT = 200


def measured(folder: Path, images: Tensor, labels: tuple[int, ...]) -> dict[str, Measurement]:
    protocol = protocols["fashion"]
    requests = Requests(labels, tuple(range(COUNT)))
    chunks = iter(torch.split(images, 64))
    samples = stored(folder, requests, lambda _: {"images": next(chunks)}, settings=Samples(COUNT, 0), batch_size=64)
    shared = Measured(Samples(COUNT, 0), SamplerConfig(), "cpu")
    found = protocol.open(Given()).prepare()(samples, requests, shared)
    return {own.metric: own for own in found}


@pytest.fixture(scope="module")
def real() -> tuple[Tensor, tuple[int, ...]]:
    """Other real images than those that the judge compares with."""
    chosen = zoo.calibration_set().take(COUNT)
    return torch.from_numpy(chosen.images), tuple(int(label) for label in chosen.labels)


def test_real_images_are_real(real: tuple[Tensor, tuple[int, ...]], tmp_path: Path) -> None:
    images, labels = real
    found = measured(tmp_path, images, labels)
    with torch.no_grad():
        logits = zoo.load_classifier()(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    right = np.mean(logits.argmax(dim=1).numpy() == np.array(labels))
    assert found["label_agreement"].value == pytest.approx(right) and right > 0.85
    assert found["classifier_frechet"].value < 1.5 and found["classifier_precision"].value > 0.8
    for metric in ("label_agreement", "classifier_frechet", "classifier_inception_score"):
        low, high = found[metric].interval or (1, 0)
        assert low <= found[metric].value <= high
    assert found["classifier_frechet"].reference == "2,000 Fashion-MNIST test images"
    assert len(found["classifier_frechet"].weights) == 64


def test_noise_is_not(real: tuple[Tensor, tuple[int, ...]], tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (COUNT, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = measured(tmp_path, noise, real[1])
    assert found["label_agreement"].value < 0.3
    assert found["classifier_frechet"].value > 5 and found["classifier_precision"].value < 0.1


def test_the_requests_go_round_the_classes() -> None:
    requests = protocols["fashion"].requests(Given(), 12, 5)
    assert isinstance(requests, Requests)
    assert requests.labels[:11] == (*range(10), 0) and requests.seeds == tuple(range(5, 17))
