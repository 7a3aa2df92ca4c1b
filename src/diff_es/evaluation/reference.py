"""Reference batches in ADM's form: the real images of a protocol, or their Inception statistics, or both, as one .npz.

The members are `mu` (D,) and `sigma` (D, D), mean and covariance of the pool3 features of *all* real images, and
`arr_0` (N, H, W, 3) uint8, the images (a part of them in ADM's ImageNet files). FID is measured against the stored
statistics, precision and recall against the images. Other members (`mu_s`, `sigma_s`) are left unread.

These files are passed around the internet. A .npz is a zip archive whose members may hold Python objects, which run
code when they are loaded, or inflate to any size; so nothing is inflated before its announced size has been checked,
never more than that is inflated, and objects are refused.
"""

from __future__ import annotations

import hashlib
import io
import math
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from diff_es.artifacts import write_bytes
from diff_es.errors import ArtifactError, InputError
from diff_es.metrics import Gaussian

#: 50,000 images of 256 × 256 take 9.2 GiB, ADM's 10,000 of 512 × 512 take 7.3 GiB.
MAX_BYTES = 16 * 2**30

_MAX_MEMBERS = 64
#: Photographs hardly shrink. Only what is large and shrinks more than this is taken for a zip bomb.
_MAX_RATIO = 100
_SMALL_BYTES = 64 * 2**20

_STATISTICS = ("mu", "sigma")
_IMAGES = "arr_0"
_WAY_OUT = "download it again from its publisher, or make one with diff_es.evaluation.reference.write_reference"

#: What zipfile, zlib and numpy raise on damaged content.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError),
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, OverflowError),
)


@dataclass(frozen=True, eq=False)
class Reference:
    """The real images that generated ones are compared with; statistics or images are there, or both.

    Attributes:
        gaussian: Mean and covariance of the pool3 features, float64; None where only images are stored.
        images: (N, H, W, 3) uint8; None where only statistics are stored, or images were not asked for.
        sha256: sha256 of the file, recorded beside every number.
    """

    gaussian: Gaussian | None
    images: NDArray[np.uint8] | None
    sha256: str


def read_reference(path: Path, *, with_images: bool = True, max_bytes: int = MAX_BYTES) -> Reference:
    """Read a reference batch; nothing in it is run, and no more memory is used than its announced and checked size.

    Args:
        path: The .npz file.
        with_images: Whether to read the images too; they are of no use to FID where there are statistics.
        max_bytes: Largest size of all arrays together.

    Raises:
        ArtifactError: the file is missing, damaged, too large, a zip bomb, holds Python objects, or arrays of other
            names, shapes or types; or `with_images` is False and there is nothing else.
    """
    if not path.is_file():
        raise ArtifactError(f"The reference {path} does not exist; check the path, or {_WAY_OUT}.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            with zipfile.ZipFile(file) as archive:
                members = _checked_members(archive, path.stat().st_size, max_bytes)
                wanted = [name for name in (*_STATISTICS, *[_IMAGES] * with_images) if name in members]
                arrays = {name: _array(archive, members[name], name) for name in wanted}
        gaussian, images = _gaussian(arrays), _images(arrays)
        if gaussian is None and images is None:
            raise ArtifactError(f"it holds {sorted(members) or 'nothing'}, but neither mu and sigma nor arr_0 to read")
    except ArtifactError as error:
        raise ArtifactError(f"{path} is no reference that can be used: {error}; {_WAY_OUT}.") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} is damaged, cut off or no .npz file ({reason}); {_WAY_OUT}.") from error
    return Reference(gaussian, images, digest)


def write_reference(path: Path, gaussian: Gaussian | None, images: NDArray[np.uint8] | None) -> None:
    """Write a reference batch of your own, atomically; equal content gives an equal file.

    Args:
        path: The .npz file; one that exists is replaced.
        gaussian: `gaussian(pool3)` of all real images, or None.
        images: (N, H, W, 3) uint8 real images, or None. They are held in memory twice while the file is made.

    Raises:
        InputError: neither is given, or one is of another shape or type or not finite.
        ArtifactError: the file cannot be written.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    if gaussian is not None:
        arrays |= {"mu": gaussian.mean.detach().cpu().numpy(), "sigma": gaussian.covariance.detach().cpu().numpy()}
    if images is not None:
        arrays[_IMAGES] = images
    if not arrays:
        raise InputError("A reference needs statistics or images; give gaussian or images.")
    try:
        _gaussian(arrays)
        _images(arrays)
    except ArtifactError as error:
        raise InputError(f"The reference {path} was not written: {error}.") from error
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for allow_pickle
    write_bytes(path, content.getvalue())


def _checked_members(archive: zipfile.ZipFile, file_bytes: int, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by array name, after checking what the archive's headers announce.

    Raises:
        ArtifactError: too many, too large, named twice, or packed in a way that numpy does not write.
    """
    entries = archive.infolist()
    if len(entries) > _MAX_MEMBERS:
        raise ArtifactError(f"it has {len(entries)} members, a reference has up to 5")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise ArtifactError(f"its arrays would take {total} bytes, more than max_bytes={max_bytes}")
    if sum(entry.compress_size for entry in entries) > file_bytes:
        raise ArtifactError("its members are larger than the file, so they overlap")
    members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
    if len(members) < len(entries):
        raise ArtifactError("it holds two members of one name")
    for name, entry in members.items():
        _check_packing(name, entry)
    return members


def _check_packing(name: str, entry: zipfile.ZipInfo) -> None:
    """Check how a member is packed, by its header alone."""
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArtifactError(f"{name} is encrypted, or compressed in another way than numpy does")
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        raise ArtifactError(f"{name} announces {entry.file_size} bytes but has {entry.compress_size}")
    if entry.file_size > _SMALL_BYTES and entry.file_size > _MAX_RATIO * entry.compress_size:
        raise ArtifactError(
            f"{name} would grow from {entry.compress_size} to {entry.file_size} bytes when unpacked, like a zip bomb"
        )


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> NDArray[np.generic]:
    """Read one array, after checking that its own header fits the announced size.

    `zipfile` inflates no more than the announced size, and compares the checksum when it has got that far: a member
    that is really longer is found there.
    """
    with archive.open(entry) as member:
        if npy.read_magic(member) != (1, 0):  # other versions allow headers of any length
            raise ArtifactError(f"{name} is no array of numpy's format 1.0")
        shape, _, dtype = npy.read_array_header_1_0(member)
        announced = member.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ArtifactError(f"{name} holds pickled Python objects, which could run code and are never loaded")
    if min(shape, default=1) < 1 or announced != entry.file_size:
        raise ArtifactError(f"{name} of shape {shape} would take {announced} bytes, but has {entry.file_size}")
    with archive.open(entry) as member:
        array: NDArray[np.generic] = npy.read_array(member, allow_pickle=False)
    return array


def _gaussian(arrays: dict[str, NDArray[np.generic]]) -> Gaussian | None:
    """Check and convert the statistics, if there are any."""
    present = [name for name in _STATISTICS if name in arrays]
    if not present:
        return None
    if len(present) == 1:
        raise ArtifactError(f"it holds {present[0]} alone; FID needs both mu and sigma")
    mean, covariance = (arrays[name] for name in _STATISTICS)
    for name, array in zip(_STATISTICS, (mean, covariance), strict=True):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ArtifactError(f"{name} ({array.dtype}) is not made of finite floats")
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ArtifactError(f"mu {mean.shape} and sigma {covariance.shape} are not of shapes (D,) and (D, D)")
    exact = covariance.astype(np.float64)
    if np.abs(exact - exact.T).max() > 1e-6 * np.abs(exact).max() or exact.diagonal().min() < 0:
        raise ArtifactError("sigma is no covariance: it is not symmetric, or has a negative variance")
    return Gaussian(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(exact))


def _images(arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8] | None:
    """Check the images, if there are any."""
    if _IMAGES not in arrays:
        return None
    images = arrays[_IMAGES]
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size or images.dtype != np.uint8:
        raise ArtifactError(f"arr_0 is {images.dtype} {images.shape}, not uint8 images of shape (N, H, W, 3)")
    return images.astype(np.uint8, copy=False)
