"""Fashion-MNIST: the training source, and the two small sets that ship with the package.

The full data set comes from Debian's package ``dataset-fashion-mnist`` (four gzipped files in the idx format).
Shipped beside this file are 1,024 training images for calibration and 2,000 test images for evaluation, stored as the
original 28 x 28 grey values; reading pads them to 32 x 32 and repeats them to three channels, as the models expect.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from diff_es.errors import ArtifactError, InputError
from diff_es.images import LabelledImages

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_SOURCE: Final = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES: Final = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
IMAGE_SIZE: Final = 32
_IDX_SIZE: Final = 28
_IDX_UNSIGNED_BYTE: Final = 0x08
_SHIPPED: Final = Path(__file__).parent / "data"

Split = Literal["train", "t10k"]


def calibration_set() -> LabelledImages:
    """The 1,024 training images that ship with the package; each class occurs 102 or 103 times."""
    return _read_shipped("fashion-calibration.npz")


def reference_set() -> LabelledImages:
    """The 2,000 test images that ship with the package; each class occurs 200 times."""
    return _read_shipped("fashion-reference.npz")


def full_set(source: Path, split: Split) -> LabelledImages:
    """Read a whole split of Fashion-MNIST.

    Args:
        source: folder with the four ``*-ubyte.gz`` files.
        split: ``"train"`` (60,000 images) or ``"t10k"`` (10,000).

    Raises:
        InputError: a file is missing.
        ArtifactError: a file is not in the idx format or is cut off.
    """
    grey = _read_idx(source, f"{split}-images-idx3-ubyte.gz")
    labels = _read_idx(source, f"{split}-labels-idx1-ubyte.gz")
    if grey.shape != (len(labels), _IDX_SIZE, _IDX_SIZE):
        raise ArtifactError(f"{source}: {split} images of shape {grey.shape} do not fit {len(labels)} labels")
    return LabelledImages(_expand(grey), labels.astype(np.int64))


def balanced_subset(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Choose ``count`` rows with class counts that differ by at most one, in shuffled order.

    Args:
        labels: (N,) class of each row.
        count: how many rows to choose.
        seed: of the private random generator.

    Returns:
        (count,) row numbers.
    """
    rng = np.random.default_rng(seed)
    share, extra = divmod(count, len(CLASS_NAMES))
    rows = [rng.permutation(np.flatnonzero(labels == c))[: share + (c < extra)] for c in range(len(CLASS_NAMES))]
    return rng.permutation(np.concatenate(rows))


def write_subset(images: LabelledImages, count: int, seed: int, output: Path) -> None:
    """Write a class-balanced subset in the shipped form (28 x 28 grey values and labels, npz without pickle)."""
    rows = balanced_subset(images.labels, count, seed)
    grey = images.images[rows, 2:-2, 2:-2, 0]
    np.savez_compressed(output, images=grey, labels=images.labels[rows].astype(np.uint8))


def _expand(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 28, 28) -> (N, 32, 32, 3): a black border of two pixels, equal channels."""
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=-1)


def _read_shipped(name: str) -> LabelledImages:
    with np.load(_SHIPPED / name, allow_pickle=False) as stored:
        return LabelledImages(_expand(stored["images"]), stored["labels"].astype(np.int64))


def _read_idx(source: Path, name: str) -> NDArray[np.uint8]:
    """Read one gzipped idx file: magic 0, 0, type, rank; then big-endian sizes; then the bytes."""
    path = source / name
    if not path.is_file():
        raise InputError(
            f"data: no file {name} in {str(source)!r}; install Debian's package dataset-fashion-mnist "
            "(apt install dataset-fashion-mnist) or name the folder that holds the four *-ubyte.gz files"
        )
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ArtifactError(f"{path}: not a readable gzip file ({error})") from error
    header = np.frombuffer(raw[:4], np.uint8)
    if len(header) < 4 or tuple(header[:3]) != (0, 0, _IDX_UNSIGNED_BYTE):
        raise ArtifactError(f"{path}: not an idx file of unsigned bytes (starts with {raw[:4]!r})")
    rank = int(header[3])
    shape = tuple(int(size) for size in np.frombuffer(raw[4 : 4 + 4 * rank], ">u4"))
    body = np.frombuffer(raw[4 + 4 * rank :], np.uint8)
    if body.size != np.prod(shape):
        raise ArtifactError(f"{path}: header promises shape {shape}, the file holds {body.size} bytes")
    return body.reshape(shape)
