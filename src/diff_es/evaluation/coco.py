"""The protocol of text-to-image models on the captions and images of COCO 2017."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from diff_es.errors import InputError
from diff_es.evaluation.bootstrap import interval, resamples
from diff_es.evaluation.clip import ClipScorer
from diff_es.evaluation.folder import ImageFolder
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
from diff_es.evaluation.records import Measurement
from diff_es.evaluation.reference import read_reference
from diff_es.metrics import Gaussian, frechet_between, gaussian
from diff_es.prompts import read_coco_captions, read_prompts
from diff_es.sampling import ImageRequests, PromptRequests

if TYPE_CHECKING:
    from diff_es.evaluation.inception import InceptionFeatures
    from diff_es.evaluation.quality import Measured
    from diff_es.evaluation.store import StoredSamples

_NAME = "coco2017"

#: How the statistics of the real images come about, a digest of those images, and their name.
_Real: TypeAlias = "tuple[Callable[[InceptionFeatures], Gaussian], str, str]"


def _requests(given: Given, images: int, first_seed: int) -> PromptRequests:
    """Read as many prompts as images are wanted.

    Raises:
        InputError: no file, a bad one, or one with fewer prompts.
    """
    path = given.prompts
    if path is None:
        raise InputError(f"{_NAME} needs prompts: name COCO's captions_val2017.json, or a file with one per line.")
    if path.suffix.lower() == ".json":
        return PromptRequests.consecutive(read_coco_captions(path, images), first_seed)
    prompts = read_prompts(path)
    if len(prompts) < images:
        raise InputError(f"prompts={path} holds {len(prompts)} prompts for {images} images; give as many.")
    return PromptRequests.consecutive(prompts[:images], first_seed)


def _open(given: Given) -> Opened:
    """FID against the real images, and the CLIP score.

    Raises:
        InputError: no reference, an image folder that cannot be read, or no network.
        ArtifactError: an .npz reference is damaged.
    """
    path = reference_path(given, _NAME, "the folder val2017 of COCO's images, or an .npz with mu and sigma")
    real, digest, name = _folder_statistics(path, given) if path.is_dir() else _stored_statistics(path)
    inception, scorer = load_inception(given), ClipScorer.load(given.clip, given.device)

    def prepare() -> Measure:
        statistics = real(inception)
        return lambda samples, requests, shared: (
            _fid(inception, statistics, name, samples, shared),
            _clip_score(scorer, samples, requests, shared),
        )

    sources = {"reference": digest, "inception": inception.weights_sha256, "clip": scorer.weights_sha256}
    return Opened(sources, prepare)


def _folder_statistics(path: Path, given: Given) -> _Real:
    folder = ImageFolder.open(path)

    def statistics(inception: InceptionFeatures) -> Gaussian:
        return gaussian(look_at_batches(inception, folder.batches(given.batch_size)).features)

    return statistics, folder.sha256(), f"{len(folder):,} images of {path.resolve().name}"


def _stored_statistics(path: Path) -> _Real:
    reference = read_reference(path, with_images=False)
    stored = reference.gaussian
    assert stored is not None  # without images there are statistics, or an error
    check_statistics(stored, path)
    return lambda _: stored, reference.sha256, f"the statistics of {path.name}"


def _fid(
    inception: InceptionFeatures, real: Gaussian, name: str, samples: StoredSamples, shared: Measured
) -> Measurement:
    judged = look_at_batches(inception, samples.images(), len(samples.chunks))
    return Measurement(
        metric="fid",
        value=frechet_between(gaussian(judged.features), real),
        higher_is_better=False,
        computed_by=inception.version,
        samples=shared.samples,
        sampling=shared.sampling,
        device=shared.device,
        weights=inception.weights_sha256,
        reference=name,
    )


def _clip_score(scorer: ClipScorer, samples: StoredSamples, requests: ImageRequests, shared: Measured) -> Measurement:
    """Return the mean cosine of image and prompt, in [0, 1]."""
    if not isinstance(requests, PromptRequests):
        raise InputError("The CLIP score needs prompts, and these images were made from class labels.")
    batches = (batch.permute(0, 3, 1, 2).float() / 255 for batch in samples.images())
    scores = scorer.score_batches(batches, requests.prompts).double()
    value = float(scores.mean())
    return Measurement(
        metric="clip_score",
        value=value,
        higher_is_better=True,
        computed_by=scorer.version,
        samples=shared.samples,
        sampling=shared.sampling,
        device=shared.device,
        weights=scorer.weights_sha256,
        interval=interval(value, scores[torch.from_numpy(resamples(len(scores)))].mean(dim=1).tolist(), (0, 1)),
    )


COCO2017 = NamedProtocol(
    name=_NAME,
    text=(
        "Text-to-image on COCO 2017: 5,000 images, image i of prompt i and seed i, as 8-bit pixels round(255 x); "
        "with COCO's captions file, of each image of val2017, by id, the first caption. FID on the pool3 features "
        "of Inception-v3 (torch-fidelity) against the real images, all at their own sizes; CLIP score as the mean "
        "of max(0, cosine) of image and prompt."
    ),
    images=5_000,
    fewest=2,
    requests=_requests,
    open=_open,
)
