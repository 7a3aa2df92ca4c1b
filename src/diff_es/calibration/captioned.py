"""Image folders with captions: COCO's annotations, or a file beside the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diff_es.calibration.data import check_folder, read_images
from diff_es.errors import InputError
from diff_es.images import CaptionedImages, is_image, spread_rows
from diff_es.prompts import check_caption, read_coco_files

#: Hugging Face's convention, and the plainest one.
METADATA, TABLE = "metadata.jsonl", "captions.txt"
_MAX_BYTES = 256 * 2**20


def read_captioned_folder(
    folder: Path, size: int, captions: Path | None = None, samples: int | None = None
) -> CaptionedImages:
    """Read images of a folder and its subfolders, each with its caption. Images are resized to the model's size.

    Args:
        folder: The folder.
        size: Height and width in pixels.
        captions: COCO's captions file; of each image the first caption counts, and images that the folder does not hold
            are no matter. None reads `metadata.jsonl` of the folder (one object with file_name and text per line) or
            `captions.txt` (file, tab, caption), all of whose images must be there.
        samples: How many images to read, evenly spread over the set; None reads all.

    Raises:
        InputError: no folder, no captions, no image, fewer than wanted, an image without a caption, or one that cannot
            be read; the file is named, nothing is skipped.
    """
    check_folder(folder)
    if captions is not None:
        known, origin = read_coco_files(captions), captions
    else:
        origin = _own_captions(folder)
        known = _read_metadata(origin) if origin.name == METADATA else _read_table(origin)
        for name in known:
            _check_listed(folder, name, origin)
    files = sorted(path for path in folder.rglob("*") if is_image(path))
    if not files:
        raise InputError(f"{folder} holds no images (png, jpg, webp or bmp).")
    names = [path.relative_to(folder).as_posix() for path in files]
    for path, name in zip(files, names, strict=True):
        if name not in known:
            raise InputError(f"{path} has no caption in {origin}; add one, or remove the image.")
    rows = spread_rows(len(files), len(files) if samples is None else samples)
    images = read_images([files[row] for row in rows], size)
    return CaptionedImages(images, tuple(known[names[row]] for row in rows))


def _own_captions(folder: Path) -> Path:
    found = [folder / name for name in (METADATA, TABLE) if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder} holds no captions: give COCO's captions file as calibration.captions, or add {METADATA} (one "
            f'{{"file_name": …, "text": …}} per line) or {TABLE} (file, tab, caption).'
        )
    if len(found) > 1:
        raise InputError(f"{folder} holds both {METADATA} and {TABLE}; keep one.")
    if found[0].stat().st_size > _MAX_BYTES:
        raise InputError(f"{found[0]} is larger than {_MAX_BYTES // 2**20} MiB.")
    return found[0]


def _read_metadata(path: Path) -> dict[str, str]:
    """Read file name → caption from Hugging Face's metadata.jsonl."""
    captions: dict[str, str] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no JSON: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise InputError(f'{where} is no object with file_name and text: write {{"file_name": …, "text": …}}.')
        _add(captions, row["file_name"], row.get("text"), where)
    return captions


def _read_table(path: Path) -> dict[str, str]:
    """Read file name → caption from lines of file, tab, caption."""
    captions: dict[str, str] = {}
    for number, line in _lines(path):
        name, tab, caption = line.partition("\t")
        if not tab:
            raise InputError(f"{path}, line {number} has no tab; write file, tab, caption.")
        _add(captions, name, caption, f"{path}, line {number}")
    return captions


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of every line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start + 1}); save it as UTF-8.") from error
    return list(enumerate(text.removesuffix("\n").replace("\r\n", "\n").split("\n"), 1))


def _add(captions: dict[str, str], name: str, caption: Any, where: str) -> None:
    if name in captions:
        raise InputError(f"{where} names {name!r} again; keep one caption per image.")
    captions[name] = check_caption(caption, f"{where}: the caption of {name!r}")


def _check_listed(folder: Path, name: str, origin: Path) -> None:
    if not name or not is_image(folder / name) or not (folder / name).is_file():
        raise InputError(f"{origin} names {name!r}, which is no image (png, jpg, webp or bmp) in {folder}.")
