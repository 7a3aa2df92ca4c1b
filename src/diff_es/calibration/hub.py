"""Images of a Hugging Face data set, streamed: only as many rows are loaded as are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from diff_es.calibration.data import resized
from diff_es.errors import InputError
from diff_es.images import CaptionedImages, KnownImages, LabelledImages, as_rgb
from diff_es.progress import track
from diff_es.prompts import check_caption

_IMAGE, _LABEL, _CAPTIONS = "image", "label", ("text", "caption")


def read_hub(name: str, size: int, samples: int, *, labelled: bool) -> KnownImages:
    """Read the first rows of a data set, whose images are resized to the model's size.

    Args:
        name: NAME, NAME:SPLIT ("train" by default); NAME may be a local folder that `datasets` knows how to read.
        size: Height and width in pixels.
        samples: Number of rows.
        labelled: Whether class labels are wanted (the column `label`), or captions (`text` or `caption`).

    Raises:
        InputError: `datasets` is not installed, no such data set, missing columns, fewer rows, or an image or a caption
            that cannot be used; the row is named.
    """
    rows = islice(_stream(name), samples)
    return read_rows(rows, f"hf:{name}", size, samples, labelled=labelled)


def read_rows(rows: Iterable[Mapping[str, Any]], name: str, size: int, samples: int, *, labelled: bool) -> KnownImages:
    """Turn rows of a data set into images with what they show.

    Args:
        rows: Each with "image" (of Pillow) and "label", or "text" or "caption".
        name: What an error calls the data set.
        size: Height and width in pixels.
        samples: Rows that there must be.
        labelled: Whether labels are wanted, or captions.

    Raises:
        InputError: see `read_hub`.
    """
    images, labels, captions = [], [], []
    for number, row in enumerate(track(rows, "Reading images", total=samples)):
        where = f"{name}, row {number}"
        images.append(_image(row, where, size))
        if labelled:
            labels.append(_label(row, where))
        else:
            captions.append(_caption(row, where))
    if len(images) < samples:
        raise InputError(f"samples={samples} but {name} has only {len(images)} rows; lower samples.")
    pixels = np.stack(images)
    if labelled:
        return LabelledImages(pixels, np.asarray(labels, np.int64))
    return CaptionedImages(pixels, tuple(captions))


def _stream(name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a data set."""
    try:
        import datasets  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise InputError(f"calibration.data=hf:{name} needs datasets: pip install 'diff-es[hf]'.") from error
    path, _, split = name.partition(":")
    number = 0
    try:
        for row in datasets.load_dataset(path, split=split or "train", streaming=True):
            yield row
            number += 1
    # The library answers what is missing, damaged or out of reach with all of these; so do Pillow's decoders.
    except (datasets.exceptions.DatasetsError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"calibration.data=hf:{name} cannot be read at row {number}: {error} Give hf:NAME or hf:NAME:SPLIT."
        ) from error


def _image(row: Mapping[str, Any], where: str, size: int) -> Any:
    image = row.get(_IMAGE)
    if not isinstance(image, Image.Image):
        raise InputError(f"{where} has no column {_IMAGE!r} with an image; it has {', '.join(row)}.")
    try:
        return resized(as_rgb(image, where), size)
    except InputError:
        raise
    # Pillow decodes when it must, and its decoders answer damage with all of these.
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{where} cannot be read as an image ({error}); repair or remove it.") from error


def _label(row: Mapping[str, Any], where: str) -> int:
    label = row.get(_LABEL)
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise InputError(f"{where} has no class in the column {_LABEL!r} ({label!r}); it has {', '.join(row)}.")
    return label


def _caption(row: Mapping[str, Any], where: str) -> str:
    column = next((column for column in _CAPTIONS if column in row), None)
    if column is None:
        raise InputError(f"{where} has no column {' or '.join(map(repr, _CAPTIONS))}; it has {', '.join(row)}.")
    return check_caption(row[column], f"{where}, {column}")
