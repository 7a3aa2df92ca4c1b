"""Calibration images: read from a folder or an npz file, never skipped silently, encoded to latents in batches."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from diff_es.errors import InputError
from diff_es.images import LabelledImages, to_tensor
from diff_es.progress import track

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_MAX_NPZ_BYTES = 4 * 2**30


def read_folder(folder: Path, size: int) -> LabelledImages:
    """Read an image folder with one subfolder per class; class labels follow the sorted names of the subfolders.

    A subfolder whose name is a number is that class label. Images are resized to the model's size.

    Args:
        folder: The folder.
        size: Height and width in pixels.

    Raises:
        InputError: no folder, no image, or one that cannot be read (it is named; nothing is skipped).
    """
    if not folder.is_dir():
        raise InputError(f"calibration.data={folder} is no folder.")
    classes = sorted(item for item in folder.iterdir() if item.is_dir())
    files = [(path, _label(item, index)) for index, item in enumerate(classes) for path in image_files(item)]
    if not files:
        raise InputError(f"{folder} holds no images: expected {folder}/CLASS/*.png (or jpg, webp, bmp).")
    images = [_read_image(path, size) for path, _ in track(files, "Reading images")]
    return LabelledImages(np.stack(images), np.asarray([label for _, label in files], np.int64))


def read_npz(path: Path) -> LabelledImages:
    """Read arrays `images` (uint8, (N, height, width, 3)) and `labels` from an npz file, without pickle.

    Raises:
        InputError: no such file, an unreadable or too large one, or missing arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > _MAX_NPZ_BYTES:
            raise InputError(f"{path} unpacks to {size} bytes, over the limit of {_MAX_NPZ_BYTES}.")
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except InputError:
        raise
    # numpy and zipfile answer damage and pickled objects with all of these.
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as an npz with `images` and `labels`: {error}") from error
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: labels must be integers, not {labels.dtype}.")
    return LabelledImages(images, labels.astype(np.int64))


@torch.no_grad()
def encode(pipe: Any, images: npt.NDArray[np.uint8], batch_size: int = 64) -> Tensor:
    """Encode images to clean latents in the denoiser's units, shape (N, C, h, w), float32 on the CPU.

    Args:
        pipe: Gives the VAE; the mean of its posterior is taken.
        images: uint8, shape (N, height, width, 3).
        batch_size: Images per call of the VAE.
    """
    parameter = next(pipe.vae.parameters())
    latents = []
    for start in track(range(0, len(images), batch_size), "Encoding images"):
        scaled = to_tensor(images[start : start + batch_size]).to(parameter.device, parameter.dtype)
        latents.append(pipe.vae.encode(scaled).latent_dist.mean.float().cpu())
    shift, scale = pipe.vae.config.get("shift_factor") or 0.0, pipe.vae.config.scaling_factor
    return (torch.cat(latents) - float(shift)) * float(scale)


def image_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose names say that they are images (png, jpg, jpeg, webp, bmp), sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def open_image(path: Path) -> Image.Image:
    """Read a whole image as RGB with 8 bits per channel; grey and palette images are converted.

    Raises:
        InputError: it cannot be read, has transparent pixels (what lies behind them is not known), or more than 8 bits
            per channel (the way to 8 is not known).
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in _ALPHA_MODES or "transparency" in image.info:
                opaque = image.convert("RGBA").getchannel("A").getextrema()[0] == 255
            else:
                opaque = True
            deep = image.mode.startswith(("I", "F"))
            converted = image.convert("RGB")
    # Pillow's decoders answer damage with all of these.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); repair or remove it.") from error
    if not opaque:
        raise InputError(f"{path} has transparent pixels; put it on a background and save it without transparency.")
    if deep:
        raise InputError(f"{path} has more than 8 bits per channel; save it with 8.")
    return converted


def _label(folder: Path, index: int) -> int:
    return int(folder.name) if folder.name.isdecimal() else index


def _read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
    return np.asarray(open_image(path).resize((size, size), Image.Resampling.BICUBIC), np.uint8)
