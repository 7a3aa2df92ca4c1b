"""Calibration images: read whole or refused by name."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diff_es.calibration import encode, read_captioned_npz, read_folder, read_npz
from diff_es.errors import InputError
from diff_es.images import LabelledImages
from support import tiny_pipe


def picture(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("cats", 2), ("dogs", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            picture(index).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_a_folder_gives_resized_images_and_labels_by_sorted_name(folder: Path) -> None:
    picture(9).convert("L").save(folder / "cats" / "grey.jpg")
    read = read_folder(folder, 16)
    assert read.images.shape == (4, 16, 16, 3)
    assert read.images.dtype == np.uint8
    assert read.labels.tolist() == [0, 0, 0, 1]
    expected = picture(0).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(read.images[0], np.asarray(expected))


def test_numbers_as_folder_names_are_the_labels(tmp_path: Path) -> None:
    for label in (7, 10, 3):
        (tmp_path / str(label)).mkdir()
        picture(label, (16, 16)).save(tmp_path / str(label) / "a.png")
    read = read_folder(tmp_path, 16)
    for label, image in zip(read.labels, read.images, strict=True):
        assert np.array_equal(image, np.asarray(picture(int(label), (16, 16))))
    assert sorted(read.labels.tolist()) == [3, 7, 10]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        read_folder(tmp_path, 16)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=r"holds no images.*CLASS"):
        read_folder(tmp_path, 16)
    with pytest.raises(InputError, match="is no folder"):
        read_folder(tmp_path / "nowhere", 16)


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_broken_image_is_named(folder: Path, suffix: str, content: bytes | str) -> None:
    if content == "truncated":
        buffer = io.BytesIO()
        picture(3).save(buffer, {"png": "PNG", "jpg": "JPEG"}[suffix])
        content = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    (folder / "dogs" / f"broken.{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=rf"dogs/broken\.{suffix} cannot be read as an image.*repair or remove"):
        read_folder(folder, 16)


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    """A few hundred damaged PNG and BMP files: each is read or refused, nothing else."""
    (tmp_path / "cats").mkdir()
    dice = random.Random(0)
    refused = 0
    for turn in range(300):
        kind = ("png", "bmp", "webp")[turn % 3]
        buffer = io.BytesIO()
        picture(1).save(buffer, kind.upper())
        content = bytearray(buffer.getvalue())
        for _ in range(dice.randint(1, 4)):
            content[dice.randrange(min(len(content), 80))] = dice.randrange(256)
        path = tmp_path / "cats" / f"image.{kind}"
        path.write_bytes(content)
        try:
            read_folder(tmp_path, 8)
        except InputError as error:
            assert path.name in str(error)
            refused += 1
        path.unlink()
    assert refused > 50


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_an_npz_is_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    read = read_npz(save_npz(tmp_path / "a.npz", images=images, labels=np.arange(5, dtype=np.uint8)))
    assert np.array_equal(read.images, images)
    assert read.labels.tolist() == [0, 1, 2, 3, 4]
    assert read.labels.dtype == np.int64


IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
LABELS = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "labels"),
        ({"labels": LABELS}, "images"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "must be uint8"),
        ({"images": IMAGES[..., 0], "labels": LABELS}, r"\(2, 8, 8\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "N ≥ 1"),
        ({"images": IMAGES, "labels": np.zeros(3, np.int64)}, "2 images but labels"),
        ({"images": IMAGES, "labels": np.array([0.0, 1.5])}, "labels must be integers, not float64"),
        ({"images": IMAGES, "labels": np.array(["cat", "dog"])}, "labels must be integers"),
        ({"images": IMAGES, "labels": np.array([0, {"a": 1}], dtype=object)}, "(?i)pickle"),
        ({"images": np.array([0, None], dtype=object), "labels": LABELS}, "(?i)pickle"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_npz(save_npz(tmp_path / "a.npz", **arrays))


def test_a_pickled_object_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    path = save_npz(tmp_path / "a.npz", images=IMAGES, labels=np.array([Bomb(), 1], dtype=object))
    with pytest.raises(InputError):
        read_npz(path)
    assert not (tmp_path / "exploded").exists()


def test_damaged_npz_files_are_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    whole = path.read_bytes()
    dice = random.Random(1)
    damaged = [b"", b"PK", whole[: len(whole) // 2], whole[:-30]]
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(4):
            content[dice.randrange(len(content))] = dice.randrange(256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_npz(path)
        except InputError:
            refused += 1
    assert refused > 20
    with pytest.raises(InputError, match=r"b\.npz cannot be read"):
        read_npz(tmp_path / "b.npz")


def test_an_npz_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    """The sizes in the directory of the archive say 4 GiB each; nothing of that size is ever unpacked."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("images.npy", "labels.npy"):
            archive.writestr(name, b"x" * 10)
    content = path.read_bytes()
    for match in (i for i in range(len(content)) if content.startswith(b"PK\x01\x02", i)):
        content = content[: match + 24] + struct.pack("<I", 0xFFFFFFFE) + content[match + 28 :]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"unpacks to 8589934588 bytes, over the limit"):
        read_npz(path)


def test_take_spreads_over_the_set_and_never_repeats() -> None:
    images = LabelledImages(np.zeros((10, 2, 2, 3), np.uint8), np.arange(10))
    assert images.take(10).labels.tolist() == list(range(10))
    assert images.take(4).labels.tolist() == [0, 3, 6, 9]
    assert images.take(1).labels.tolist() == [0]
    with pytest.raises(InputError, match="samples=11 but only 10"):
        images.take(11)


def test_only_as_many_images_as_wanted_are_read(folder: Path) -> None:
    """They are spread over the classes; what is not chosen is not opened."""
    for name in ("cats", "dogs", "emus"):
        (folder / name).mkdir(exist_ok=True)
        for index in range(4):
            picture(index).save(folder / name / f"{index}.png")
    (folder / "cats" / "1.png").write_bytes(b"broken")
    read = read_folder(folder, 16, 3)
    assert read.labels.tolist() == [0, 1, 2]
    assert np.array_equal(read.images[2], np.asarray(picture(3).resize((16, 16), Image.Resampling.BICUBIC)))
    with pytest.raises(InputError, match="samples=13 but only 12 images"):
        read_folder(folder, 16, 13)


def test_a_captioned_npz_is_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    read = read_captioned_npz(save_npz(tmp_path / "a.npz", images=images, captions=np.array(["a  cat", "ein Hund"])))
    assert np.array_equal(read.images, images) and read.captions == ("a cat", "ein Hund")
    assert read.take(1).captions == ("a cat",) and len(read) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES, "labels": LABELS}, "with `images` and `captions`: 'captions is not a file"),
        ({"images": IMAGES, "captions": LABELS}, "captions must be a row of texts"),
        ({"images": IMAGES, "captions": np.array([["a", "b"]])}, "captions must be a row of texts"),
        ({"images": IMAGES, "captions": np.array(["a"])}, "2 images but 1 captions"),
        ({"images": IMAGES, "captions": np.array(["a", " "])}, r"captions\[1\] is empty"),
        ({"images": IMAGES, "captions": np.array(["a", {}], dtype=object)}, "(?i)pickle"),
    ],
)
def test_unusable_captions_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_captioned_npz(save_npz(tmp_path / "a.npz", **arrays))


def test_encoding_in_batches_equals_encoding_at_once() -> None:
    pipe = tiny_pipe()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    at_once = encode(pipe, images)
    assert at_once.shape == (7, 4, 4, 4)
    assert at_once.dtype == torch.float32
    torch.testing.assert_close(encode(pipe, images, batch_size=3), at_once, rtol=1e-5, atol=1e-6)
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    with torch.no_grad():
        exact = pipe.vae.double().encode(scaled).latent_dist.mean * pipe.vae.config.scaling_factor
    torch.testing.assert_close(at_once.double(), exact, rtol=1e-4, atol=1e-5)
