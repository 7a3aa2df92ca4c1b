"""Calibration images by the names that recipes use, and their latents, encoded once per run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diff_es import zoo
from diff_es.calibration import (
    encode_batch,
    read_captioned_folder,
    read_captioned_npz,
    read_folder,
    read_hub,
    read_npz,
)
from diff_es.denoisers import Fingerprint, fingerprint
from diff_es.errors import InputError
from diff_es.evaluation import CHUNK, stored
from diff_es.images import CaptionedImages, KnownImages, LabelledImages
from diff_es.pipelines import image_size
from diff_es.sampling import ImageRequests, PromptRequests, Requests, takes_labels
from diff_es.zoo.captions import caption_of

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.recipe import CalibrationSection

FASHION = "zoo:fashion"
_HUB = "hf:"
#: Images per file of stored latents.


def check_data(section: CalibrationSection, pipe: Any) -> None:
    """Refuse what the names alone show to be impossible.

    Raises:
        InputError: captions for a class-conditional model, or beside data that has its own.
    """
    if not section.captions or section.source == "sampling":
        return
    if takes_labels(pipe):
        raise InputError(
            f"calibration.captions={section.captions}, but {type(pipe).__name__} makes images from class labels; "
            "remove it."
        )
    if section.data == FASHION or section.data.startswith(_HUB) or Path(section.data).suffix == ".npz":
        raise InputError(
            f"calibration.captions={section.captions} belongs to an image folder, and calibration.data={section.data} "
            "has captions of its own; remove one of the two."
        )


def load_images(section: CalibrationSection, pipe: Any, arguments: Mapping[str, Any] | None = None) -> KnownImages:
    """Read as many calibration images as are wanted, with labels or captions, whichever the model takes.

    Args:
        section: Its `data`: "zoo:fashion", "hf:NAME", an image folder, or an npz file.
        pipe: Images of folders and data sets are resized to what it makes; others must have that size.
        arguments: What else the pipeline is given (height, width).

    Raises:
        InputError: nothing there, too few, an image or caption that cannot be used, or images of another size.
    """
    check_data(section, pipe)
    size = image_size(pipe, arguments)
    images = (_labelled if takes_labels(pipe) else _captioned)(section, size)
    height, width = images.images.shape[1:3]
    if (height, width) != (size, size):
        raise InputError(
            f"calibration.data={section.data} holds images of {height} × {width} pixels, the model makes {size} × "
            f"{size}: give an image folder (its images are resized), or calibrate with source: sampling."
        )
    return images


def _labelled(section: CalibrationSection, size: int) -> KnownImages:
    data, path = section.data, Path(section.data)
    if data == FASHION:
        return zoo.calibration_set().take(section.samples)
    if data.startswith(_HUB):
        return read_hub(data.removeprefix(_HUB), size, section.samples, labelled=True)
    if path.suffix == ".npz":
        return read_npz(path).take(section.samples)
    return read_folder(path, size, section.samples)


def _captioned(section: CalibrationSection, size: int) -> KnownImages:
    data, path = section.data, Path(section.data)
    if data == FASHION:
        images = zoo.calibration_set().take(section.samples)
        return CaptionedImages(images.images, tuple(caption_of(label) for label in images.labels.tolist()))
    if data.startswith(_HUB):
        return read_hub(data.removeprefix(_HUB), size, section.samples, labelled=False)
    if path.suffix == ".npz":
        return read_captioned_npz(path).take(section.samples)
    captions = Path(section.captions) if section.captions else None
    return read_captioned_folder(path, size, captions, section.samples)


@dataclass(frozen=True)
class _LatentSettings:
    """What stored latents depend on; a folder of others is refused."""

    images: str
    vae: Fingerprint
    requests: Requests | PromptRequests


def stored_latents(pipe: Any, images: KnownImages, folder: Path, batch_size: int) -> tuple[Tensor, ImageRequests]:
    """Encode images, going on where an earlier run stopped.

    Args:
        pipe: Gives the VAE.
        images: What to encode.
        folder: Where the latents are kept, some images per file.
        batch_size: Images per call of the VAE, at most.

    Returns:
        Latents in the denoiser's units, (N, C, h, w), and what the images show; the seed of image i is i.

    Raises:
        InputError: the folder holds latents of other images or of another VAE.
        ArtifactError: a file there is damaged.
    """
    requests = _requests(images)

    def produce(batch: ImageRequests) -> dict[str, Tensor]:
        return {"latents": encode_batch(pipe, images.images[list(batch.seeds)])}

    settings = _LatentSettings(_digest(images), fingerprint(pipe.vae), requests)
    size = min(batch_size, CHUNK)
    samples = stored(folder, requests, produce, settings=settings, batch_size=size, description="Encoding images")
    return samples.tensor("latents"), requests


def _requests(images: KnownImages) -> ImageRequests:
    if isinstance(images, LabelledImages):
        return Requests.cycle(images.labels.tolist(), len(images), 0)
    return PromptRequests.consecutive(images.captions, 0)


def _digest(images: KnownImages) -> str:
    """The sha256 of all pixels, which all images have the same number of."""
    return hashlib.sha256(np.ascontiguousarray(images.images).data).hexdigest()
