"""Generated images side by side: one row per model, one column per seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diff_es.report.theme import WIDTH, Theme, bare, drawing, png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Transparent pixels between two images of a strip.
GAP = 2


def draw_images(images: Mapping[str, NDArray[Any]], columns: Sequence[str], theme: Theme) -> bytes:
    """All rows in one picture, the name of the model above its row."""
    strips = {name: strip(entry) for name, entry in images.items()}
    height, width, _ = next(iter(strips.values())).shape
    row_height = WIDTH * height / width
    with drawing(theme, (row_height + 0.3) * len(strips) + 0.35) as figure:
        rows = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
        for axes, (name, pixels) in zip(rows, strips.items(), strict=True):
            axes.imshow(pixels, interpolation="nearest", aspect="equal")
            axes.set_title(name, loc="left", fontsize=9, pad=2)
            axes.set_xticks([])
            axes.set_yticks([])
            bare(axes)
        if columns:
            cell = width / len(columns)
            centres = [cell * (index + 0.5) for index in range(len(columns))]
            angle = 35 if max(map(len, columns)) > 60 / len(columns) else 0
            rows[-1].set_xticks(centres, columns, fontsize=7, rotation=angle, rotation_mode="anchor")
            rows[-1].tick_params(axis="x", pad=4)
            for label in rows[-1].get_xticklabels():
                label.set_horizontalalignment("right" if angle else "center")
        return png(figure)


def strip(images: NDArray[Any], columns: int = 0) -> NDArray[np.uint8]:
    """Put images in a row; values that are not finite become black.

    Args:
        images: (N, H, W, 3), uint8 or float in [0, 1].
        columns: Places in the row, those beyond the N images left transparent; at least N.

    Returns:
        (H, columns · (W + gap) − gap, 4).
    """
    pixels = to_uint8(images)
    count, height, width, _ = pixels.shape
    row = np.zeros((height, max(count, columns) * (width + GAP) - GAP, 4), dtype=np.uint8)
    for index, image in enumerate(pixels):
        start = index * (width + GAP)
        row[:, start : start + width, :3] = image
        row[:, start : start + width, 3] = 255
    return row


def to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Round floats in [0, 1] to the nearest of 256 values; uint8 stays."""
    if images.dtype == np.uint8:
        return images
    pixels: NDArray[np.uint8] = np.round(np.nan_to_num(images, nan=0.0, posinf=0.0, neginf=0.0) * 255).astype(np.uint8)
    return pixels


def count_broken(images: NDArray[Any]) -> int:
    """How many of the images hold a value that is not finite."""
    return int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
