"""Generated images on a page: strips of the same seeds, worst cases, and the pair that a reader compares."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diff_es.report.image_figures import GAP, count_broken, strip, to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from diff_es.report.content import Gallery, WorstCase

#: Images side by side in one strip: more would be too small on a phone, fewer too large on a desk.
_MOST_COLUMNS, _FEWEST_COLUMNS = 10, 6
#: Sides up to this are kept as they are, pixel by pixel; larger images are shown smaller, and compressed.
_LARGEST_EXACT = 64
_LARGEST_SHOWN = 256


@dataclass(frozen=True)
class Strip:
    """One row of images: the model's name, the pixels as a data: address, the text alternative."""

    name: str
    address: str
    alt: str


@dataclass(frozen=True)
class Sheet:
    """Some columns of the image grid.

    Attributes:
        columns: Their names; empty where they have none.
        strips: One per model.
        cells: What each image is called in a list, as JSON.
        places: Places in a strip; those beyond the images are empty.
        gap: Transparent pixels between two images.
    """

    columns: tuple[str, ...]
    strips: tuple[Strip, ...]
    cells: str
    places: int
    gap: int = GAP


@dataclass(frozen=True)
class Pair:
    """One image of the dense model and the same seed by a schedule, as data: addresses."""

    schedule: str
    label: str
    dense: str
    pruned: str
    dense_alt: str
    pruned_alt: str


@dataclass(frozen=True)
class GalleryPage:
    """A gallery as it is shown.

    Attributes:
        sheets: The same seeds for all models.
        worst: Name of a schedule → its worst cases.
        first: The pair that the comparison starts with; None where there is nothing to compare.
        dense: Name of the model that the others are compared with.
        remarks: What is to be said of the images.
        exact: Whether every pixel is shown as it was generated.
    """

    sheets: tuple[Sheet, ...]
    worst: dict[str, tuple[Pair, ...]]
    first: Pair | None
    dense: str
    remarks: tuple[str, ...]
    exact: bool


def gallery_page(gallery: Gallery) -> GalleryPage:
    """Turn a gallery into data: addresses and words."""
    worst = {
        name: tuple(_worst_pair(name, gallery.dense, case) for case in cases) for name, cases in gallery.worst.items()
    }
    size = max((max(images.shape[1:3]) for images in _arrays(gallery)), default=0)
    shown = f"Images of {size} pixels are shown at {_LARGEST_SHOWN} or fewer, and compressed."
    return GalleryPage(
        sheets=tuple(_sheets(gallery)),
        worst={name: pairs for name, pairs in worst.items() if pairs},
        first=_first_pair(gallery),
        dense=gallery.dense,
        remarks=(*_broken(gallery), *((shown,) if size > _LARGEST_EXACT else ())),
        exact=size <= _LARGEST_EXACT,
    )


def image_label(gallery: Gallery, index: int) -> str:
    """What image i is called: its label and its seed, where they are known, else its number."""
    label = gallery.labels[index] if gallery.labels else ""
    seed = f"seed {gallery.seeds[index]}" if gallery.seeds else ""
    return ", ".join(filter(None, (label, seed))) or f"image {index + 1}"


def address(pixels: NDArray[np.uint8]) -> str:
    """Return pixels (H, W, 3 or 4) as a data: address: small ones exactly, as PNG, large ones smaller, as WebP."""
    buffer = BytesIO()
    image = Image.fromarray(pixels)
    kind = "png" if image.height <= _LARGEST_EXACT else "webp"
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": 85, "method": 4}
    image.save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shrink(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Make images (N, H, W, 3) with a side above what is shown smaller; others keep every pixel."""
    pixels = to_uint8(images)
    longest = max(pixels.shape[1:3])
    if longest <= _LARGEST_SHOWN:
        return pixels
    height, width = (max(1, round(side * _LARGEST_SHOWN / longest)) for side in pixels.shape[1:3])
    resized = (Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS) for image in pixels)
    return np.stack([np.asarray(image) for image in resized])


def _sheets(gallery: Gallery) -> Iterator[Sheet]:
    """Cut the image grid into sheets of about equal width that a phone can show."""
    sheets = math.ceil(gallery.count / _MOST_COLUMNS)
    width = math.ceil(gallery.count / sheets) if sheets else 0
    places = max(width, _FEWEST_COLUMNS)
    for start in range(0, gallery.count, max(width, 1)):
        part = slice(start, min(start + width, gallery.count))
        cells = [image_label(gallery, index) for index in range(part.start, part.stop)]
        strips = tuple(
            Strip(name, address(strip(shrink(images[part]), places)), f"Images by {name}: {'; '.join(cells)}.")
            for name, images in gallery.images.items()
        )
        names = gallery.labels[part]
        columns = (*names, *[""] * (places - len(names))) if names else ()
        yield Sheet(columns, strips, json.dumps(cells), places)


def _worst_pair(name: str, dense: str, case: WorstCase) -> Pair:
    label = ", ".join(filter(None, (case.label, f"seed {case.seed}", f"SSIM {case.ssim:.3f}")))
    return _pair((name, dense), label, case.dense, case.pruned)


def _first_pair(gallery: Gallery) -> Pair | None:
    """The last schedule, which is the one the run is about, at its first image."""
    pruned = [name for name in gallery.images if name != gallery.dense]
    if not pruned or gallery.dense not in gallery.images:
        return None
    images = gallery.images[gallery.dense][0], gallery.images[pruned[-1]][0]
    return _pair((pruned[-1], gallery.dense), image_label(gallery, 0), *images)


def _pair(names: tuple[str, str], label: str, dense: NDArray[Any], pruned: NDArray[Any]) -> Pair:
    left, right = (address(shrink(image[None])[0]) for image in (dense, pruned))
    schedule, reference = names
    return Pair(schedule, label, left, right, f"By {reference}: {label}.", f"By {schedule}: {label}.")


def _arrays(gallery: Gallery) -> Iterator[NDArray[Any]]:
    yield from gallery.images.values()
    for cases in gallery.worst.values():
        yield from (case.dense[None] for case in cases)


def _broken(gallery: Gallery) -> tuple[str, ...]:
    """Say which rows hold images that could only be drawn in part."""
    counts = {name: count_broken(images) for name, images in gallery.images.items()}
    return tuple(
        f"{name}: {count} of {len(gallery.images[name])} images hold values that are not finite, drawn black."
        for name, count in counts.items()
        if count
    )
