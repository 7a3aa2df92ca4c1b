"""Prompts: each line is one prompt or one clear error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diff_es import prompts
from diff_es.errors import InputError
from diff_es.prompts import read_any_prompts, read_coco_captions, read_coco_files, read_prompts

LINES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(str.strip)


@given(st.lists(LINES, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_every_line_is_a_prompt(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], newline: str, ends: bool, marked: bool
) -> None:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    text = newline.join(lines) + (newline if ends else "")
    path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + text.encode())
    if lines[0].startswith("\ufeff") and not marked:
        lines[0] = lines[0][1:]  # the very mark that editors write
        if not lines[0].strip():
            return
    assert read_prompts(path) == tuple(lines)


def test_prompts_may_repeat_and_keep_their_white_space(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n a\tdog \na dog", encoding="utf-8")
    assert read_prompts(path) == ("a dog", " a\tdog ", "a dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; write one prompt per line"),
        (b"\xef\xbb\xbf", "is empty; write one prompt per line"),
        (b"\n", "line 1 is empty"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\n \t \nb\n", "line 2 is empty"),
        (b"a\nb\n\n", "line 3 is empty"),
        (b"a\r\n\r\n", "line 2 is empty"),
        (b"a\ncaf\xe9\n", r"line 2 is not UTF-8 \(byte 4\)"),
        (b"a\nb\0c\n", r"line 2 holds the control character U\+0000"),
        (b"a\rb\rc\n", r"line 1 holds the control character U\+000D"),
        (b"a\n" + b"x" * 4001, "line 2 has 4001 characters, more than 4000"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"prompts.txt,? {message}") as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


def test_the_longest_prompt_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("é" * 4000, encoding="utf-8")
    assert read_prompts(path) == ("é" * 4000,)


@pytest.mark.parametrize("read", [read_prompts, read_coco_captions])
def test_missing_and_oversized_files_are_refused(tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is no file"):
        read(tmp_path)
    monkeypatch.setattr(prompts, "MAX_PROMPTS_BYTES", 2**20)
    monkeypatch.setattr(prompts, "MAX_ANNOTATIONS_BYTES", 2**20)
    path = tmp_path / "large"
    path.write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(InputError, match="is larger than 1 MiB"):
        read(path)


#: As in COCO, neither list is sorted, and an image has several captions.
IMAGES = [{"id": 30}, {"id": 7}, {"id": 12}]
CAPTIONS = [
    {"id": 5, "image_id": 12, "caption": "a\ntrain\n"},
    {"id": 9, "image_id": 7, "caption": " a dog "},
    {"id": 1, "image_id": 7, "caption": "another dog"},
    {"id": 2, "image_id": 30, "caption": "a cat"},
    {"id": 3, "image_id": 12, "caption": "the train"},
]


def annotations(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({"info": {}, "images": IMAGES, "annotations": CAPTIONS, **changes}), encoding="utf-8")
    return path


def test_coco_captions_are_the_first_of_each_image_by_id(tmp_path: Path) -> None:
    path = annotations(tmp_path / "captions.json")
    assert read_coco_captions(path, 3) == ("a dog", "a train", "a cat")
    assert read_coco_captions(path, 1) == ("a dog",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "has no list of objects 'images'"),
        ({"annotations": [1]}, "has no list of objects 'annotations'"),
        ({"images": [{"id": "7"}]}, "id='7' is no image id"),
        ({"images": [{"id": True}]}, "id=True is no image id"),
        ({"annotations": [{"caption": "a"}]}, "image_id=None is no image id"),
        ({"annotations": CAPTIONS[:2]}, "the caption of image 30 is missing"),
        ({"annotations": [{"image_id": 7, "caption": 3}, *CAPTIONS]}, "the caption of image 7 is missing or no text"),
        ({"annotations": [{"image_id": 7, "caption": " "}, *CAPTIONS]}, "the caption of image 7 is empty"),
        ({"images": IMAGES[:2]}, "count=3 but .* has 2 images"),
    ],
)
def test_annotations_of_another_shape_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = annotations(tmp_path / "captions.json", **changes)
    with pytest.raises(InputError, match=message):
        read_coco_captions(path, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff\xff", b"[" * 10**6])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no JSON"):
        read_coco_captions(path, 3)


def test_a_list_is_no_annotations_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="has no list of objects 'images'"):
        read_coco_captions(path, 3)
    with pytest.raises(InputError, match="count=0"):
        read_coco_captions(path, 0)


FILES = [{"id": 30, "file_name": "c.jpg"}, {"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "none.jpg"}]


def test_coco_captions_by_file_name(tmp_path: Path) -> None:
    """Of each image the caption that comes first in the file; one without is left out."""
    path = annotations(tmp_path / "captions.json", images=FILES)
    assert read_coco_files(path) == {"c.jpg": "a cat", "a.jpg": "a dog"}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": 7}], "file_name=None of image 7 is missing"),
        ([*FILES, {"id": 12, "file_name": "a.jpg"}], "file_name='a.jpg' of image 12 is .* another's too"),
        ([{"file_name": "a.jpg"}], "id=None is no image id"),
    ],
)
def test_file_names_that_name_no_image_are_refused(tmp_path: Path, images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_coco_files(annotations(tmp_path / "captions.json", images=images))


def test_any_list_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog\na cat\n")
    assert read_any_prompts(tmp_path / "prompts.txt") == ("a dog", "a cat")
    assert read_any_prompts(annotations(tmp_path / "captions.JSON")) == ("a dog", "a train", "a cat")
    with pytest.raises(InputError, match="has no images"):
        read_any_prompts(annotations(tmp_path / "captions.json", images=[]))
