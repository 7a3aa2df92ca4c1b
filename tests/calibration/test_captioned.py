"""Folders of images with captions: every image with its own caption, or one error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diff_es.calibration import read_captioned_folder
from diff_es.errors import InputError

NAMES = ("a.png", "b.jpg", "more/c.png")
CAPTIONS = {name: f"a photo of {name[-5]}" for name in NAMES}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "more").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        picture(seed).save(data / name)
    return data


def metadata(folder: Path, rows: list[Any]) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def rows_of(captions: dict[str, str]) -> list[Any]:
    return [{"file_name": name, "text": caption, "other": 3} for name, caption in captions.items()]


def coco(path: Path, captions: dict[str, str]) -> Path:
    """Images in another order than the files, some of which the folder does not hold; two captions each."""
    images = [{"id": 100 - row, "file_name": name} for row, name in enumerate([*captions, "absent.jpg"])]
    texts = [*captions.values(), "not here"]
    first = [{"image_id": image["id"], "caption": text} for image, text in zip(images, texts, strict=True)]
    second = [{"image_id": image["id"], "caption": "second"} for image in images]
    path.write_text(json.dumps({"images": images, "annotations": [*first, *second]}), encoding="utf-8")
    return path


def test_metadata_of_hugging_face(folder: Path) -> None:
    metadata(folder, rows_of(CAPTIONS))
    read = read_captioned_folder(folder, 16)
    assert read.captions == tuple(CAPTIONS.values()) and read.images.shape == (3, 16, 16, 3)
    expected = picture(0).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(read.images[0], np.asarray(expected))


def test_a_plain_table(folder: Path) -> None:
    lines = [f"{name}\t{caption}" for name, caption in reversed(CAPTIONS.items())]
    (folder / "captions.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_captioned_folder(folder, 16).captions == tuple(CAPTIONS.values())


def test_annotations_of_coco(folder: Path, tmp_path: Path) -> None:
    read = read_captioned_folder(folder, 16, coco(tmp_path / "captions.json", CAPTIONS))
    assert read.captions == tuple(CAPTIONS.values())


def test_only_as_many_as_wanted_are_read(folder: Path) -> None:
    metadata(folder, rows_of(CAPTIONS))
    (folder / "b.jpg").write_bytes(b"broken")
    assert read_captioned_folder(folder, 16, samples=2).captions == ("a photo of a", "a photo of c")
    with pytest.raises(InputError, match="samples=4 but only 3 images"):
        read_captioned_folder(folder, 16, samples=4)
    with pytest.raises(InputError, match=r"b\.jpg cannot be read as an image"):
        read_captioned_folder(folder, 16)


def test_an_image_without_caption_is_named(folder: Path, tmp_path: Path) -> None:
    some = {name: CAPTIONS[name] for name in NAMES[:2]}
    with pytest.raises(InputError, match=r"more/c\.png has no caption in .*captions\.json"):
        read_captioned_folder(folder, 16, coco(tmp_path / "captions.json", some))
    metadata(folder, rows_of(some))
    with pytest.raises(InputError, match=r"more/c\.png has no caption in .*metadata\.jsonl; add one, or remove"):
        read_captioned_folder(folder, 16)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "d.png", "text": "a"}, "names 'd.png', which is no image"),
        ({"file_name": "more", "text": "a"}, "names 'more', which is no image"),
        ({"file_name": "", "text": "a"}, "names '', which is no image"),
        ({"file_name": "a.png", "text": "again"}, "line 4 names 'a.png' again"),
        ({"text": "a"}, "line 4 is no object with file_name and text"),
        ([1], "line 4 is no object with file_name and text"),
        ({"file_name": "d.png"}, "line 4: the caption of 'd.png' is missing or no text"),
        ({"file_name": "d.png", "text": " "}, "line 4: the caption of 'd.png' is empty"),
    ],
)
def test_rows_that_cannot_be_used_are_named(folder: Path, row: Any, message: str) -> None:
    metadata(folder, [*rows_of(CAPTIONS), row])
    with pytest.raises(InputError, match=message):
        read_captioned_folder(folder, 16)


def test_files_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no captions: give COCO's .* or add metadata\.jsonl"):
        read_captioned_folder(folder, 16)
    (folder / "captions.txt").write_text("a.png a photo\n")
    with pytest.raises(InputError, match="line 1 has no tab"):
        read_captioned_folder(folder, 16)
    (folder / "captions.txt").write_bytes(b"a.png\t\xff")
    with pytest.raises(InputError, match=r"is not UTF-8 \(byte 7\)"):
        read_captioned_folder(folder, 16)
    path = metadata(folder, rows_of(CAPTIONS))
    with pytest.raises(InputError, match="holds both"):
        read_captioned_folder(folder, 16)
    (folder / "captions.txt").unlink()
    path.write_text("{")
    with pytest.raises(InputError, match="line 1 is no JSON"):
        read_captioned_folder(folder, 16)
    with pytest.raises(InputError, match="is no folder"):
        read_captioned_folder(tmp_path / "nowhere", 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        read_captioned_folder(tmp_path / "empty", 16, coco(tmp_path / "captions.json", {}))
