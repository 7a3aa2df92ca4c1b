"""Image folders: all images, in order, at their own size, or an error that names the one that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diff_es.errors import InputError
from diff_es.evaluation.folder import ImageFolder


def pixels(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def picture(seed: int, height: int = 6, width: int = 8) -> Image.Image:
    return Image.fromarray(pixels(seed, height, width))


def read_images(folder: Path, size: tuple[int, int] | None = None) -> Tensor:
    """All images of a folder that are of one size, (N, H, W, 3)."""
    return torch.cat(list(ImageFolder.open(folder, size).batches()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images whose order by name is not that of their making."""
    for seed, name in enumerate(("c.png", "a.PNG", "b.png")):
        picture(seed).save(tmp_path / name)
    (tmp_path / "LICENSE.txt").write_text("CC BY 4.0")
    return tmp_path


def test_images_come_sorted_by_name_and_unchanged(folder: Path) -> None:
    images = read_images(folder)
    assert (images.shape, images.dtype) == ((3, 6, 8, 3), torch.uint8)
    assert np.array_equal(images.numpy(), np.stack([pixels(1), pixels(2), pixels(0)]))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "bmp"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    smooth = np.full((6, 8, 3), (200, 100, 50), np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}")
    assert np.abs(read_images(tmp_path)[0].numpy().astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    # Only JPEG knows CMYK, and keeps but smooth images nearly as they are.
    name, image = ("a.jpg", Image.new("RGB", (8, 6), (200, 100, 50))) if mode == "CMYK" else ("a.png", picture(0))
    image = image.convert(mode)
    image.save(tmp_path / name)
    read = read_images(tmp_path)[0].numpy()
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read - expected).max() <= (3 if mode == "CMYK" else 0)
    if mode in {"L", "1", "LA"}:
        assert (read[..., 0] == read[..., 1]).all() and (read[..., 0] == read[..., 2]).all()


def text(path: Path) -> None:
    path.write_text("this is no picture")


def cut(path: Path) -> None:
    picture(3, 40, 40).save(path)
    path.write_bytes(path.read_bytes()[:-400])


def transparent(path: Path) -> None:
    image = picture(3).convert("RGBA")
    image.putpixel((0, 0), (1, 2, 3, 254))
    image.save(path)


def transparent_colour(path: Path) -> None:
    image = picture(3).convert("L").convert("P")
    image.save(path, transparency=image.getpixel((0, 0)))
    with Image.open(path) as image:
        assert "transparency" in image.info


def deep(path: Path) -> None:
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000).save(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text, "cannot be read as an image .*; repair or remove it"),
        (Path.touch, "cannot be read as an image"),
        (Path.mkdir, "cannot be read as an image"),
        (cut, "cannot be read as an image"),
        (transparent, "has transparent pixels"),
        (transparent_colour, "has transparent pixels"),
        (deep, "has more than 8 bits"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_and_never_skipped(
    folder: Path, make: Callable[[Path], object], message: str
) -> None:
    make(folder / "b2.png")
    for size in (None, (4, 4)):
        with pytest.raises(InputError, match=rf"b2\.png {message}"):
            read_images(folder, size)
    batches = ImageFolder.open(folder).batches(1)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(InputError, match=r"b2\.png"):
        next(batches)


def test_images_of_several_sizes(folder: Path) -> None:
    picture(5, 9, 5).save(folder / "d.png")
    assert [tuple(batch.shape) for batch in ImageFolder.open(folder).batches(2)] == [
        *((2, 6, 8, 3), (1, 6, 8, 3), (1, 9, 5, 3))
    ]
    assert read_images(folder, (4, 4)).shape == (4, 4, 4, 3)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((6, 8), lambda: pixels(0)),
        ((6, 4), lambda: pixels(0)[:, 2:6]),
        ((4, 8), lambda: pixels(0)[1:5]),
        ((3, 4), lambda: np.asarray(picture(0).resize((4, 3), Image.Resampling.BICUBIC))),
        ((3, 2), lambda: np.asarray(picture(0).resize((4, 3), Image.Resampling.BICUBIC))[:, 1:3]),
        ((12, 2), lambda: np.asarray(picture(0).resize((16, 12), Image.Resampling.BICUBIC))[:, 7:9]),
    ],
)
def test_resize_to_cover_then_crop_the_centre(
    tmp_path: Path, size: tuple[int, int], expected: Callable[[], np.ndarray]
) -> None:
    picture(0).save(tmp_path / "a.png")
    assert np.array_equal(read_images(tmp_path, size)[0].numpy(), expected())


def test_the_digest_sees_names_and_contents(folder: Path) -> None:
    before = ImageFolder.open(folder).sha256()
    assert ImageFolder.open(folder).sha256() == before
    (folder / "c.png").rename(folder / "e.png")
    renamed = ImageFolder.open(folder).sha256()
    picture(9).save(folder / "e.png")
    assert len({before, renamed, ImageFolder.open(folder).sha256()}) == 3


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is no folder"):
        read_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="holds no images: expected"):
        read_images(tmp_path)
