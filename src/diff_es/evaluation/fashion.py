"""The protocol of the shipped Fashion-MNIST models: what the shipped classifier says of their images."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from diff_es import zoo
from diff_es.artifacts import sha256
from diff_es.evaluation.classifier import classifier_judge
from diff_es.evaluation.protocol import Given, Measure, NamedProtocol, Opened
from diff_es.evaluation.quality import ImageScores, Measured, agreement, assess, measurements
from diff_es.sampling import Requests
from diff_es.zoo.captions import caption_of
from diff_es.zoo.classifier import WEIGHTS_NAME

if TYPE_CHECKING:
    from diff_es.evaluation.judge import Judge
    from diff_es.evaluation.records import Measurement
    from diff_es.evaluation.store import StoredSamples
    from diff_es.sampling import ImageRequests

_CLASSES = len(zoo.CLASS_NAMES)


def fashion_judge() -> Judge:
    """Return the shipped classifier with the shipped test images."""
    reference = torch.from_numpy(zoo.reference_set().images)
    return classifier_judge(
        zoo.load_classifier(),
        reference,
        reference_name=f"{len(reference):,} Fashion-MNIST test images",
        version=f"diff-es {version('diff-es')}, fashion-classifier",
        weights=sha256(zoo.path("fashion-classifier") / WEIGHTS_NAME),
    )


def _requests(_: Given, images: int, first_seed: int) -> Requests:
    return Requests.cycle(range(_CLASSES), images, first_seed)


def _open(_: Given) -> Opened:
    """Nothing has to be given: classifier and test images ship with the package."""
    judge = fashion_judge()

    def prepare() -> Measure:
        return lambda samples, requests, shared: _measure(judge, samples, requests, shared)

    return Opened({"fashion-classifier": judge.weights}, prepare)


def _measure(
    judge: Judge, samples: StoredSamples, requests: ImageRequests, shared: Measured
) -> tuple[Measurement, ...]:
    assert requests.labels  # those that `_requests` made, as labels or as captions
    judged = judge.look(samples.tensor("images"))
    scores = ImageScores({}, agreement(judged, torch.tensor(requests.labels)), judged)
    return measurements(assess(scores, judge), judge, shared.samples, shared.sampling, shared.device)


FASHION = NamedProtocol(
    name="fashion",
    text=(
        "Fashion-MNIST at 32 × 32: 1,000 images, image i of class i mod 10 and seed i. Label agreement is the share of "
        "images to which the shipped classifier gives the requested label. The Fréchet distance, the inception-score "
        "analogue (one split), precision and recall (k = 3) use its features and the 2,000 shipped test images: they "
        "are neither FID nor the inception score."
    ),
    images=1000,
    fewest=10,
    requests=_requests,
    open=_open,
    classes=_CLASSES,
    size=32,
    caption=caption_of,
    reads=frozenset(),
)
