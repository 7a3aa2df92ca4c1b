"""Real images in a folder: every one is read, whole and unchanged, or there is an error that names it.

A tool that skips what it cannot read measures another set than it says. Files are images by their names (png, jpg,
jpeg, webp, bmp); other files (a licence, a list of captions) are no images and are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diff_es.artifacts import sha256
from diff_es.errors import InputError
from diff_es.images import image_files, open_image


@dataclass(frozen=True)
class ImageFolder:
    """The images that lie directly in a folder, sorted by name; made by `ImageFolder.open`.

    Attributes:
        paths: Their files.
        size: (height, width) to which each is resized and cropped; None leaves each at its own size.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int] | None = None

    @classmethod
    def open(cls, folder: Path, size: tuple[int, int] | None = None) -> ImageFolder:
        """List the images of a folder; subfolders are not searched.

        Args:
            folder: The folder.
            size: Resize each (bicubic, antialiased, its shape kept) to cover this (height, width), and crop the
                centre. None changes nothing.

        Raises:
            InputError: no folder, or one without images.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; name a folder of images.")
        paths = tuple(image_files(folder))
        if not paths:
            raise InputError(f"{folder} holds no images: expected {folder}/*.png (or jpg, webp, bmp).")
        return cls(paths, size)

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, size: int = 64) -> Iterator[Tensor]:
        """Yield (n, H, W, 3) uint8: consecutive images of one size together, at most `size` of them.

        Grey, palette and CMYK images are converted to RGB. Transparent pixels and more than 8 bits per channel are
        refused.

        Raises:
            InputError: an image cannot be read as 8-bit RGB; the message names it.
        """
        batch: list[Tensor] = []
        for path in self.paths:
            image = self._read(path)
            if batch and batch[0].shape != image.shape:
                yield torch.stack(batch)
                batch = []
            batch.append(image)
            if len(batch) == size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    def sha256(self) -> str:
        """Return one digest of all names and contents."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{path.name}\0{sha256(path)}\0".encode())
        return digest.hexdigest()

    def _read(self, path: Path) -> Tensor:
        """Read one image, (H, W, 3) uint8."""
        image = open_image(path)
        return torch.from_numpy(np.array(image if self.size is None else _covering(image, self.size), np.uint8))


def _covering(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to the smallest image of the same shape that covers (height, width), and crop its centre."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    whole = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    resized = image if whole == image.size else image.resize(whole, Image.Resampling.BICUBIC)
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return resized.crop((left, top, left + width, top + height))
