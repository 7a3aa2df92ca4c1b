"""A protocol that costs nothing: the mean pixel of the tiny model's images."""

from __future__ import annotations

import torch

from diff_es.evaluation import Measurement, StoredSamples
from diff_es.evaluation.protocol import Given, Measure, NamedProtocol, Opened
from diff_es.evaluation.protocols import protocols
from diff_es.evaluation.quality import Measured
from diff_es.sampling import ImageRequests, Requests

IMAGES = 70  # more than one file


def tiny_requests(_: Given, images: int, first_seed: int) -> Requests:
    return Requests.cycle(range(10), images, first_seed)


def _measure(samples: StoredSamples, _: ImageRequests, shared: Measured) -> tuple[Measurement, ...]:
    value = float(torch.cat(list(samples.images())).double().mean())
    return (Measurement("mean_pixel", value, True, "tests", shared.samples, shared.sampling, shared.device),)


def _open(given: Given) -> Opened:
    """Its reference is any name."""

    def prepare() -> Measure:
        return _measure

    return Opened({"reference": str(given.reference)}, prepare)


TINY = NamedProtocol("tiny", "Mean pixel of tiny images.", IMAGES, 2, tiny_requests, _open, classes=10, size=16)
protocols.register(TINY.name, TINY)
