"""Rows of a Hugging Face data set as calibration images, without the network."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diff_es.calibration import read_hub
from diff_es.calibration.hub import read_rows
from diff_es.errors import InputError
from diff_es.images import CaptionedImages, LabelledImages


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)).convert(mode)


def broken() -> Image.Image:
    """Opened, and found to be cut off only when it is decoded."""
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:300]))


def test_rows_with_labels() -> None:
    rows = [{"image": picture(seed, mode), "label": seed + 2} for seed, mode in enumerate(("RGB", "L", "P"))]
    read = read_rows(rows, "hf:some", 16, 3, labelled=True)
    assert isinstance(read, LabelledImages) and read.labels.tolist() == [2, 3, 4]
    expected = picture(0).resize((16, 16), Image.Resampling.BICUBIC)
    assert read.images.shape == (3, 16, 16, 3) and np.array_equal(read.images[0], np.asarray(expected))


@pytest.mark.parametrize("column", ["text", "caption"])
def test_rows_with_captions(column: str) -> None:
    rows = [{"image": picture(0), column: "a\ncat", "label": 1}]
    read = read_rows(rows, "hf:some", 16, 1, labelled=False)
    assert isinstance(read, CaptionedImages) and read.captions == ("a cat",)


@pytest.mark.parametrize(
    ("row", "labelled", "message"),
    [
        ({"text": "a"}, False, "hf:some, row 1 has no column 'image' with an image; it has text"),
        ({"image": "a.png", "text": "a"}, False, "row 1 has no column 'image' with an image"),
        ({"image": picture(0)}, False, "row 1 has no column 'text' or 'caption'; it has image"),
        ({"image": picture(0), "text": None}, False, "row 1, text is missing or no text"),
        ({"image": picture(0), "text": "a"}, True, "row 1 has no class in the column 'label' .*it has image, text"),
        ({"image": picture(0), "label": -1}, True, r"row 1 has no class in the column 'label' \(-1\)"),
        ({"image": picture(0), "label": "cat"}, True, r"row 1 has no class in the column 'label' \('cat'\)"),
        ({"image": broken(), "label": 1}, True, "row 1 cannot be read as an image"),
        ({"image": picture(0, "I"), "label": 1}, True, "row 1 has more than 8 bits"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row: dict[str, Any], labelled: bool, message: str) -> None:
    good = {"image": picture(1), "label": 0, "text": "a"}
    with pytest.raises(InputError, match=message):
        read_rows([good, row], "hf:some", 16, 2, labelled=labelled)


def test_too_few_rows() -> None:
    with pytest.raises(InputError, match="samples=2 but hf:some has only 1 rows"):
        read_rows([{"image": picture(0), "label": 0}], "hf:some", 16, 2, labelled=True)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"calibration\.data=hf:some needs datasets: pip install 'diff-es\[hf\]'"):
        read_hub("some", 16, 1, labelled=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `datasets` knows how to read: an image folder with metadata."""
    pytest.importorskip("datasets", reason="the extra hf is not installed")
    for seed in range(4):
        picture(seed).save(tmp_path / f"{seed}.png")
    rows = [{"file_name": f"{seed}.png", "text": f"number {seed}"} for seed in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.parametrize("suffix", ["", ":train"])
def test_a_local_folder_is_streamed(folder: Path, suffix: str) -> None:
    read = read_hub(f"{folder}{suffix}", 16, 3, labelled=False)
    assert isinstance(read, CaptionedImages) and read.captions == ("number 0", "number 1", "number 2")
    expected = picture(2).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(read.images[2], np.asarray(expected))


def test_what_is_not_there_is_one_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read at row 0: .* Give hf:NAME or hf:NAME:SPLIT"):
        read_hub(f"{folder}:validation", 16, 1, labelled=False)
    with pytest.raises(InputError, match="cannot be read at row 0"):
        read_hub(str(folder / "nowhere"), 16, 1, labelled=False)
    with pytest.raises(InputError, match="has only 4 rows"):
        read_hub(str(folder), 16, 5, labelled=False)
