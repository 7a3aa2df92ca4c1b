"""The shipped image sets and the reader of the full data set."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from diff_es import zoo
from diff_es.errors import ArtifactError, InputError
from diff_es.images import LabelledImages, to_tensor, to_uint8
from diff_es.zoo.data import DEFAULT_SOURCE, balanced_subset, full_set

from .idx_files import write_idx

ROWS = 12


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (ROWS, 28, 28), dtype=np.uint8)
    write_idx(tmp_path, "train", images, np.arange(ROWS, dtype=np.uint8) % 10)
    return tmp_path


@pytest.mark.parametrize(("load", "count"), [(zoo.calibration_set, 1024), (zoo.reference_set, 2000)])
def test_shipped_sets_are_balanced_images_with_a_black_border(load, count):
    shipped = load()
    assert shipped.images.shape == (count, 32, 32, 3)
    counts = np.bincount(shipped.labels, minlength=10)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= 1
    border = np.ones((32, 32), bool)
    border[2:-2, 2:-2] = False
    assert not shipped.images[:, border].any()
    assert (shipped.images == shipped.images[..., :1]).all()
    assert shipped.images.std() > 50
    assert len(np.unique(shipped.images.reshape(count, -1), axis=0)) > 0.99 * count


@pytest.mark.skipif(not DEFAULT_SOURCE.is_dir(), reason="needs Debian's dataset-fashion-mnist")
@pytest.mark.parametrize(("load", "split"), [(zoo.calibration_set, "train"), (zoo.reference_set, "t10k")])
def test_shipped_images_are_rows_of_their_split_with_their_labels(load, split):
    shipped, whole = load(), full_set(DEFAULT_SOURCE, split)
    known = {(image.tobytes(), int(label)) for image, label in zip(whole.images, whole.labels, strict=True)}
    assert all((i.tobytes(), int(label)) in known for i, label in zip(shipped.images, shipped.labels, strict=True))


def test_idx_files_are_read_padded_and_repeated(source):
    data = full_set(source, "train")
    expected = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28), dtype=np.uint8)
    for channel in range(3):
        assert np.array_equal(data.images[:, 2:30, 2:30, channel], expected)
    assert data.images.sum(dtype=np.int64) == 3 * expected.sum(dtype=np.int64)
    assert data.labels.tolist() == [n % 10 for n in range(ROWS)]


def test_missing_data_names_the_package(tmp_path):
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        full_set(tmp_path, "train")


@pytest.mark.parametrize("damage", ["cut", "not gzip", "wrong magic", "cut inside"])
def test_damaged_files_are_refused(source, damage):
    path = source / "train-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    inner = gzip.decompress(raw)
    damaged = {
        "cut": raw[:-40],
        "not gzip": b"hello",
        "wrong magic": gzip.compress(b"\1" + inner[1:]),
        "cut inside": gzip.compress(inner[:-1]),
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ArtifactError, match="train-images"):
        full_set(source, "train")


def test_tensor_conversion_has_the_stated_range_and_inverse():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor[0, 1].flatten().tolist() == pytest.approx([2 * v / 255 - 1 for v in range(256)], abs=1e-6)
    assert np.array_equal(to_uint8(tensor), images)
    assert to_uint8(torch.full((1, 3, 2, 2), 1.7)).min() == 255


def test_balanced_subset_is_a_choice_without_repetition():
    labels = np.repeat(np.arange(10), 30)
    rows = balanced_subset(labels, 47, seed=1)
    assert len(set(rows.tolist())) == 47
    assert sorted(np.bincount(labels[rows]).tolist()) == [4] * 3 + [5] * 7
    assert rows.tolist() == balanced_subset(labels, 47, seed=1).tolist()
    assert rows.tolist() != balanced_subset(labels, 47, seed=2).tolist()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 32, 32), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 32, 32, 3), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 32, 32, 3), np.uint8), np.array([0, -1])),
        (np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.uint8)),
    ],
)
def test_records_that_do_not_fit_are_refused(images, labels):
    with pytest.raises(InputError):
        LabelledImages(images, labels)
