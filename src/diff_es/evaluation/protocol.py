"""What a named protocol is, and what several of them share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from diff_es.errors import InputError
from diff_es.evaluation.clip import DEFAULT_MODEL
from diff_es.evaluation.inception import PUBLISHED_SHA256, InceptionFeatures
from diff_es.evaluation.judge import Judged
from diff_es.sampling import PromptRequests, takes_labels

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.evaluation.quality import Measured
    from diff_es.evaluation.records import Measurement
    from diff_es.evaluation.store import StoredSamples
    from diff_es.metrics import Gaussian
    from diff_es.sampling import ImageRequests

_log = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_POOL3 = 2048


@dataclass(frozen=True)
class Given:
    """What whoever measures brings to a protocol; each protocol says what it needs of it.

    Attributes:
        reference: The real images: ADM's .npz, or a folder of images.
        inception_weights: File with the weights of Inception-v3; None takes those of torch's cache, or downloads them.
        prompts: One prompt per line, or COCO's captions_val2017.json.
        clip: Folder or Hub id of the CLIP model.
        device: Where the networks run.
        batch_size: Images per call of a network, ≥ 1.
    """

    reference: Path | None = None
    inception_weights: Path | None = None
    prompts: Path | None = None
    clip: str = DEFAULT_MODEL
    device: torch.device = _CPU
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size} must be at least 1.")


#: (generated images, what was asked for, what all measurements share) → the measurements.
Measure: TypeAlias = "Callable[[StoredSamples, ImageRequests, Measured], tuple[Measurement, ...]]"


@dataclass(frozen=True, eq=False)
class Opened:
    """A protocol whose files were found and can be read.

    Attributes:
        sources: What the numbers depend on besides the generated images: name → sha256.
        prepare: Looks at the real images and returns how the generated ones are measured.
    """

    sources: dict[str, str]
    prepare: Callable[[], Measure]


@dataclass(frozen=True, eq=False)
class NamedProtocol:
    """One way to measure a model that others use too.

    Attributes:
        name: Its name ("adm-imagenet256").
        text: The protocol in words.
        images: Images that belong to it.
        fewest: Fewer images than these cannot be measured at all.
        requests: (given, number of images, seed of the first) → the images to generate; the seeds are consecutive.
        open: Finds and checks files and networks, before anything is generated.
        first_seed: Seed of its first image.
        classes: Number of classes that the model must know; None for text-to-image models.
        size: Height and width in pixels that the model must make; None for any.
        caption: What a text-to-image model is asked for in place of a class; None where a protocol with classes is for
            class-conditional models alone.
        reads: What it takes from `Given`, of the files and networks there.
    """

    name: str
    text: str
    images: int
    fewest: int
    requests: Callable[[Given, int, int], ImageRequests]
    open: Callable[[Given], Opened]
    first_seed: int = 0
    classes: int | None = None
    size: int | None = None
    caption: Callable[[int], str] | None = None
    reads: frozenset[str] = frozenset({"reference", "inception_weights", "prompts", "clip"})

    def asked_of(self, pipe: Any, requests: ImageRequests) -> ImageRequests:
        """Return the requests as the pipeline takes them: class labels as captions, where the protocol has some."""
        if isinstance(requests, PromptRequests) or takes_labels(pipe) or self.caption is None:
            return requests
        return PromptRequests(tuple(map(self.caption, requests.labels)), requests.seeds, requests.labels)

    def check_given(self, given: Given) -> None:
        """Refuse what the protocol would not look at.

        Raises:
            InputError: something is given in vain.
        """
        nothing = Given()
        for name in ("reference", "inception_weights", "prompts", "clip"):
            value = getattr(given, name)
            if value != getattr(nothing, name) and name not in self.reads:
                raise InputError(f"{name}={value} is nothing that {self.name} reads; leave it out.")

    def title(self, images: int, first_seed: int) -> str:
        """Return the name, and what is not as the protocol has it: "adm-imagenet256 (1,000 of 50,000 images)"."""
        other = [f"{images:,} of {self.images:,} images"] * (images < self.images)
        other += [f"{images:,} images instead of {self.images:,}"] * (images > self.images)
        other += [f"seeds from {first_seed:,} instead of {self.first_seed:,}"] * (first_seed != self.first_seed)
        return f"{self.name} ({', '.join(other)})" if other else self.name

    def check_images(self, images: int) -> None:
        """Refuse a number of images that the metrics cannot be computed from.

        Raises:
            InputError: too few.
        """
        if images < self.fewest:
            raise InputError(
                f"images={images} are too few for {self.name}, which has {self.images:,} and needs at least "
                f"{self.fewest} to compute its metrics at all."
            )


def look_at_batches(inception: InceptionFeatures, batches: Iterable[Tensor], total: int | None = None) -> Judged:
    """Read images (n, H, W, 3) uint8, batch by batch; each batch may have its own size."""
    output = inception.extract_batches((batch.permute(0, 3, 1, 2) for batch in batches), total=total)
    return Judged(output.pool3, output.logits)


def load_inception(given: Given) -> InceptionFeatures:
    """Load Inception-v3, and say so where its weights are not those of published numbers.

    Raises:
        InputError: torch-fidelity or the weights are missing.
        ArtifactError: the file does not hold Inception's weights.
    """
    inception = InceptionFeatures.load(given.inception_weights, given.device)
    if inception.weights_sha256 != PUBLISHED_SHA256:
        _log.warning(
            "The Inception weights (sha256 %s…) are not those of 2015-12-05 that published numbers are measured with: "
            "FID, inception score, precision and recall cannot be compared with them.",
            inception.weights_sha256[:12],
        )
    return inception


def check_statistics(statistics: Gaussian, path: Path) -> None:
    """Find out before sampling whether statistics can be those of Inception's pool3 features.

    Raises:
        InputError: another number of features.
    """
    if statistics.mean.shape != (_POOL3,):
        raise InputError(
            f"reference={path} holds statistics of {len(statistics.mean)} features; those of Inception's pool3 have "
            f"{_POOL3}."
        )


def reference_path(given: Given, protocol: str, what: str) -> Path:
    """Return where the real images are; `what` says what they must be.

    Raises:
        InputError: none was given, or nothing is there.
    """
    if given.reference is None:
        raise InputError(f"{protocol} compares with real images: give a reference, {what}.")
    if not given.reference.exists():
        raise InputError(f"reference={given.reference} does not exist; {protocol} needs {what}.")
    return given.reference
