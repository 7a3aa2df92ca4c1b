"""The protocol of class-conditional ImageNet (Dhariwal and Nichol 2021), which the papers call ADM's evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diff_es.errors import InputError
from diff_es.evaluation.judge import Judge
from diff_es.evaluation.protocol import (
    Given,
    Measure,
    NamedProtocol,
    Opened,
    check_statistics,
    load_inception,
    look_at_batches,
    reference_path,
)
from diff_es.evaluation.quality import Measured, Quality, measurements
from diff_es.evaluation.reference import Reference, read_reference
from diff_es.sampling import Requests

if TYPE_CHECKING:
    from diff_es.evaluation.inception import InceptionFeatures
    from diff_es.evaluation.records import Measurement
    from diff_es.evaluation.store import StoredSamples

_NAME = "adm-imagenet256"
_CLASSES = 1000
_SIZE = 256
#: k of precision and recall.
_NEIGHBOURS = 3


def _requests(_: Given, images: int, first_seed: int) -> Requests:
    return Requests.cycle(range(_CLASSES), images, first_seed)


def adm_judge(given: Given) -> Judge:
    """Return this protocol's judge: FID against the stored statistics, the rest on Inception's features, not VGG's.

    Raises:
        InputError: no reference, or no network.
        ArtifactError: the reference is damaged, or lacks statistics or images.
    """
    return _judge(given, _reference(given), load_inception(given))


def _open(given: Given) -> Opened:
    """Find and check reference and network; look at the reference's images only when asked to."""
    reference, inception = _reference(given), load_inception(given)

    def prepare() -> Measure:
        judge = _judge(given, reference, inception)
        return lambda samples, _, shared: _measure(inception, judge, samples, shared)

    return Opened({"reference": reference.sha256, "inception": inception.weights_sha256}, prepare)


def _reference(given: Given) -> Reference:
    path = reference_path(given, _NAME, "ADM's VIRTUAL_imagenet256_labeled.npz (mu, sigma, arr_0)")
    if path.is_dir():
        raise InputError(f"reference={path} is a folder; {_NAME} compares with the statistics of an .npz.")
    reference = read_reference(path)
    if reference.gaussian is None or reference.images is None:
        lacking = "mu and sigma" if reference.gaussian is None else "arr_0"
        raise InputError(f"reference={path} lacks {lacking}, which {_NAME} needs.")
    check_statistics(reference.gaussian, path)
    shape = reference.images.shape
    if shape[1:3] != (_SIZE, _SIZE) or len(reference.images) <= _NEIGHBOURS:
        raise InputError(
            f"reference={path} holds images {shape}; {_NAME} needs more than {_NEIGHBOURS} of {_SIZE} × {_SIZE}."
        )
    return reference


def _judge(given: Given, reference: Reference, inception: InceptionFeatures) -> Judge:
    assert reference.gaussian is not None and reference.images is not None and given.reference is not None
    real = torch.split(torch.from_numpy(reference.images), given.batch_size)
    return Judge(
        look=lambda generated: look_at_batches(inception, torch.split(generated, given.batch_size)),
        gaussian=reference.gaussian,
        reference=look_at_batches(inception, real, len(real)).features.to(given.device),
        reference_name=f"{given.reference.name} ({len(reference.images):,} images and its stored statistics)",
        names=("fid", "inception_score", "precision", "recall"),
        version=inception.version,
        weights=inception.weights_sha256,
    )


def _measure(
    inception: InceptionFeatures, judge: Judge, samples: StoredSamples, shared: Measured
) -> tuple[Measurement, ...]:
    judged = look_at_batches(inception, samples.images(), len(samples.chunks))
    values = judge.distances(judged) | judge.coverage(judged)
    return measurements(Quality(values, {}), judge, shared.samples, shared.sampling, shared.device)


ADM_IMAGENET256 = NamedProtocol(
    name=_NAME,
    text=(
        "Class-conditional ImageNet at 256 × 256 as by Dhariwal and Nichol (2021): 50,000 images, image i of class "
        "i mod 1,000 and seed i, as 8-bit pixels round(255 x). FID against the statistics stored in the reference, "
        "inception score over 10 splits in the order of the images, precision and recall with k = 3 against the "
        "reference's images on the pool3 features of Inception-v3 (torch-fidelity's conversion of the TensorFlow "
        "weights of 2015-12-05)."
    ),
    images=50_000,
    fewest=10,
    requests=_requests,
    open=_open,
    classes=_CLASSES,
    size=_SIZE,
    reads=frozenset({"reference", "inception_weights"}),
)
