"""Calibration images with labels or captions: from a folder or an npz file, never skipped silently."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diff_es.errors import InputError
from diff_es.images import CaptionedImages, LabelledImages, image_files, open_image, spread_rows
from diff_es.progress import track
from diff_es.prompts import check_caption

_MAX_NPZ_BYTES = 4 * 2**30


def read_folder(folder: Path, size: int, samples: int | None = None) -> LabelledImages:
    """Read an image folder with one subfolder per class; class labels follow the sorted names of the subfolders.

    A subfolder whose name is a number is that class label. Images are resized to the model's size.

    Args:
        folder: The folder.
        size: Height and width in pixels.
        samples: How many to read, evenly spread over the set; None reads all.

    Raises:
        InputError: no folder, no image, fewer than wanted, or one that cannot be read (it is named; nothing is
            skipped).
    """
    check_folder(folder)
    classes = sorted(item for item in folder.iterdir() if item.is_dir())
    files = [(path, _label(item, index)) for index, item in enumerate(classes) for path in image_files(item)]
    if not files:
        raise InputError(f"{folder} holds no images: expected {folder}/CLASS/*.png (or jpg, webp, bmp).")
    chosen = [files[row] for row in spread_rows(len(files), len(files) if samples is None else samples)]
    images = read_images([path for path, _ in chosen], size)
    return LabelledImages(images, np.asarray([label for _, label in chosen], np.int64))


def read_npz(path: Path) -> LabelledImages:
    """Read arrays `images` (uint8, (N, height, width, 3)) and `labels` from an npz file, without pickle.

    Raises:
        InputError: no such file, an unreadable or too large one, or missing arrays.
    """
    images, labels = _arrays(path, "images", "labels")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: labels must be integers, not {labels.dtype}.")
    return LabelledImages(images, labels.astype(np.int64))


def read_captioned_npz(path: Path) -> CaptionedImages:
    """Read arrays `images` (uint8, (N, height, width, 3)) and `captions` (unicode, (N,)) from an npz file.

    Raises:
        InputError: no such file, an unreadable or too large one, missing arrays, or an empty caption.
    """
    images, captions = _arrays(path, "images", "captions")
    if captions.dtype.kind != "U" or captions.ndim != 1:
        raise InputError(f"{path}: captions must be a row of texts (dtype U), not {captions.dtype} {captions.shape}.")
    texts = [check_caption(str(text), f"{path}: captions[{row}]") for row, text in enumerate(captions)]
    return CaptionedImages(images, tuple(texts))


def _arrays(path: Path, *names: str) -> tuple[npt.NDArray[Any], ...]:
    """Read arrays of an npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > _MAX_NPZ_BYTES:
            raise InputError(f"{path} unpacks to {size} bytes, over the limit of {_MAX_NPZ_BYTES}.")
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in names)
    except InputError:
        raise
    # numpy and zipfile answer damage and pickled objects with all of these.
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError) as error:
        wanted = " and ".join(f"`{name}`" for name in names)
        raise InputError(f"{path} cannot be read as an npz with {wanted}: {error}") from error


def check_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        InputError: see there.
    """
    if not folder.is_dir():
        raise InputError(f"calibration.data={folder} is no folder.")


def read_images(paths: Sequence[Path], size: int) -> npt.NDArray[np.uint8]:
    """Read images, resized to size × size, shape (N, size, size, 3).

    Raises:
        InputError: one cannot be read; it is named.
    """
    return np.stack([resized(open_image(path), size) for path in track(paths, "Reading images")])


def resized(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Resize an RGB image to size × size, shape (size, size, 3)."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.uint8)


def _label(folder: Path, index: int) -> int:
    return int(folder.name) if folder.name.isdecimal() else index
