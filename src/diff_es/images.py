"""Images with their labels or captions, files of them, and the way between uint8 pixels and what models read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diff_es.errors import InputError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}


@dataclass(frozen=True)
class LabelledImages:
    """Images with their class labels.

    Attributes:
        images: uint8, shape (N, height, width, 3).
        labels: int64, shape (N,), 0 or more.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.labels.shape != self.images.shape[:1]:
            raise InputError(f"{len(self.images)} images but labels of shape {self.labels.shape}.")
        if self.labels.dtype != np.int64 or self.labels.min() < 0:
            raise InputError(f"labels must be int64 and ≥ 0, not {self.labels.dtype} from {self.labels.min()}.")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> LabelledImages:
        """Return `count` images, evenly spread over the set.

        Raises:
            InputError: the set is smaller.
        """
        rows = spread_rows(len(self), count)
        return LabelledImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class CaptionedImages:
    """Images with their captions.

    Attributes:
        images: uint8, shape (N, height, width, 3).
        captions: N texts.
    """

    images: NDArray[np.uint8]
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_images(self.images)
        if len(self.captions) != len(self.images):
            raise InputError(f"{len(self.images)} images but {len(self.captions)} captions.")

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, count: int) -> CaptionedImages:
        """Return `count` images, evenly spread over the set.

        Raises:
            InputError: the set is smaller.
        """
        rows = spread_rows(len(self), count)
        return CaptionedImages(self.images[rows], tuple(self.captions[row] for row in rows))


#: Images for calibration: of a class-conditional model with labels, of a text-to-image model with captions.
KnownImages: TypeAlias = LabelledImages | CaptionedImages


def spread_rows(total: int, count: int) -> NDArray[np.int64]:
    """Return `count` different numbers, evenly spread from 0 to total - 1.

    Raises:
        InputError: there are fewer.
    """
    if count > total:
        raise InputError(f"samples={count} but only {total} images are there; lower samples or add images.")
    return np.linspace(0, total - 1, count).astype(np.int64)


def _check_images(images: NDArray[np.uint8]) -> None:
    shape = images.shape
    if len(shape) != 4 or shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise InputError(f"images must be uint8 of shape (N ≥ 1, height, width, 3), not {images.dtype} {shape}.")


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Turn uint8 images into what the models read.

    Args:
        images: (N, H, W, C) uint8.

    Returns:
        (N, C, H, W) float32 in [-1, 1].
    """
    channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    return torch.from_numpy(channels_first).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """Turn model images into uint8, the inverse of `to_tensor`.

    Args:
        images: (N, C, H, W) in [-1, 1]; values outside are clamped.

    Returns:
        (N, H, W, C) uint8.
    """
    scaled = images.detach().to("cpu", torch.float32).add(1.0).mul(127.5).round().clamp(0, 255)
    array: NDArray[np.uint8] = scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image (png, jpg, jpeg, webp, bmp)."""
    return path.suffix.lower() in _SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose names say that they are images (png, jpg, jpeg, webp, bmp), sorted by name."""
    return sorted(path for path in folder.iterdir() if is_image(path))


def open_image(path: Path) -> Image.Image:
    """Read a whole image as RGB with 8 bits per channel; grey and palette images are converted.

    Raises:
        InputError: it cannot be read, has transparent pixels (what lies behind them is not known), or more than 8 bits
            per channel (the way to 8 is not known).
    """
    try:
        with Image.open(path) as image:
            return as_rgb(image, str(path))
    except InputError:
        raise
    # Pillow's decoders answer damage with all of these.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); repair or remove it.") from error


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return an image as RGB with 8 bits per channel; `name` is what an error calls it.

    Raises:
        InputError: see `open_image`; what Pillow's decoders raise is not changed.
    """
    image.load()
    opaque = True
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        opaque = image.convert("RGBA").getchannel("A").getextrema()[0] == 255
    if not opaque:
        raise InputError(f"{name} has transparent pixels; put it on a background and save it without transparency.")
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{name} has more than 8 bits per channel; save it with 8.")
    return image.convert("RGB")
