"""Inception features against torch-fidelity itself, on the same images and weights.

The published weights cannot be had offline. These are *randomly initialised*, their batch statistics fitted to noise so
that images differ; with them the library and this package must agree on every end number all the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import OpenerDirector

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor
from torch_fidelity import calculate_metrics
from torchvision.models import Inception3

from diff_es.artifacts import sha256
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation.inception import InceptionFeatures
from diff_es.metrics import frechet_distance, inception_score, precision_recall

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights under the names that torch-fidelity shares with torchvision."""
    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(2, 3, 299, 299))
        spread_answers(network.eval())
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()  # 100 MB


def spread_answers(network: Inception3) -> None:
    """Let each picture prefer classes of its own, or the score would be 1 whatever was computed."""
    fc, network.fc = network.fc, torch.nn.Identity()
    pictures = torch.nn.functional.interpolate(blobs(3, 9).float(), size=(299, 299), mode="bilinear")
    features = network((pictures - 128) / 128)
    network.fc = fc
    mean = features.mean(dim=0)
    fc.weight.sub_(torch.outer(fc.weight @ mean, mean) / mean.square().sum())
    fc.weight.div_(0.5 * (features @ fc.weight.T).std())


@pytest.fixture(scope="module")
def inception(weights: Path) -> InceptionFeatures:
    return InceptionFeatures.load(weights, CPU)


def blobs(count: int, seed: int, size: int = 24) -> Tensor:
    """Smooth random pictures, uint8 (N, 3, size, size)."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (255 * smooth).round().to(torch.uint8)


def save(images: Tensor, folder: Path) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03}.png")
    return folder


def test_end_numbers_equal_those_of_torch_fidelity(inception: InceptionFeatures, weights: Path, tmp_path: Path) -> None:
    generated, real = blobs(6, 0), blobs(7, 1) // 4 * 3
    judge = calculate_metrics(
        **{"input1": str(save(generated, tmp_path / "generated")), "input2": str(save(real, tmp_path / "real"))},
        **{"isc": True, "fid": True, "prc": True, "isc_splits": 2, "batch_size": 8},
        **{"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(weights)},
        **{"cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False},
    )
    ours, reference = (inception.extract_batches(images.split(8)) for images in (generated, real))
    score = inception_score(ours.logits, splits=2)
    shares = precision_recall(reference.pool3, ours.pool3)
    close = partial(pytest.approx, rel=1e-4)
    assert frechet_distance(ours.pool3, reference.pool3) == close(judge["frechet_inception_distance"])
    assert score.mean == close(judge["inception_score_mean"])
    assert score.std == close(judge["inception_score_std"])
    assert (shares.precision, shares.recall) == close((judge["precision"], judge["recall"]))
    # Numbers that would agree whatever was measured prove nothing.
    assert judge["inception_score_mean"] > 1.05
    assert judge["frechet_inception_distance"] > 1
    assert 0 < judge["precision"] + judge["recall"] < 2


def test_output_and_provenance(inception: InceptionFeatures, weights: Path) -> None:
    output = inception.extract_batches([blobs(3, 2)])
    assert (output.pool3.shape, output.pool3.dtype) == ((3, 2048), torch.float32)
    assert (output.logits.shape, output.logits.dtype) == ((3, 1008), torch.float32)
    state = torch.load(weights, weights_only=True)
    torch.testing.assert_close(output.logits, output.pool3 @ state["fc.weight"].T)
    assert inception.weights_sha256 == sha256(weights)
    assert inception.version.startswith("torch-fidelity 0.")


def test_batches_of_several_sizes_are_read_one_by_one(inception: InceptionFeatures) -> None:
    small, large = blobs(2, 3), blobs(1, 4, size=40)
    together = inception.extract_batches(iter([small, large]))
    assert together.pool3.shape == (3, 2048)
    torch.testing.assert_close(together.pool3[2:], inception.extract_batches([large]).pool3, rtol=1e-4, atol=1e-4)
    alone = inception.extract_batches(small.split(1))
    torch.testing.assert_close(together.pool3[:2], alone.pool3, rtol=1e-4, atol=1e-4)


def test_float_images_become_the_pixels_that_diffusers_writes(inception: InceptionFeatures) -> None:
    # 0.5/255, 1.5/255, 2.5/255 … fall exactly between two pixel values.
    ties = ((torch.arange(3 * 8 * 8).reshape(1, 3, 8, 8) % 255 + 0.5) / 255).float()
    (picture,) = VaeImageProcessor.numpy_to_pil(ties.permute(0, 2, 3, 1).numpy())
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    assert torch.equal(inception.extract_batches([ties]).pool3, inception.extract_batches([pixels]).pool3)


def test_loading_leaves_the_callers_random_numbers_alone(weights: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    InceptionFeatures.load(weights, CPU)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"shape \(N ≥ 1, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3), r"got \(2, 8, 8, 3\)"),
        (torch.zeros(0, 3, 8, 8), r"got \(0, 3, 8, 8\)"),
        (torch.tensor(0.5), r"got \(\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "uint8, or float in"),
        (torch.full((1, 3, 8, 8), -1.0), "values from -1 to -1"),
        (torch.full((1, 3, 8, 8), 255.0), "values from 255 to 255"),
        (torch.full((1, 3, 8, 8), torch.nan), "values from nan"),
    ],
)
def test_other_images_are_refused(inception: InceptionFeatures, images: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inception.extract_batches([images])


def test_no_batch_is_refused(inception: InceptionFeatures) -> None:
    with pytest.raises(InputError, match="no images"):
        inception.extract_batches([])


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth do not exist; get the file from https://.*--inception-weights"):
        InceptionFeatures.load(tmp_path / "none.pth", CPU)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No network, and torch's cache empty."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(OpenerDirector, "open", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    yield tmp_path
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.usefixtures("offline")
def test_offline_without_weights_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"cannot be downloaded .*unreachable.*--inception-weights") as refused:
        InceptionFeatures.load(None, CPU)
    assert "\n" not in str(refused.value)


def test_the_copy_in_torchs_cache_is_used(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "weights-inception-2015-12-05-6726825d.pth").symlink_to(weights)
    assert InceptionFeatures.load(None, CPU).weights_sha256 == sha256(weights)


def test_a_missing_library_names_the_extra(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match=r"pip install 'diff-es\[eval\]'"):
        InceptionFeatures.load(weights, CPU)


class _RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pickle-was-run",)


def _save(value: object) -> object:
    return lambda path, _: torch.save(value, path)


def _altered(path: Path, weights: Path, name: str, value: Tensor | None) -> None:
    state = torch.load(weights, weights_only=True)
    if value is None:
        del state[name]
    else:
        state[name] = value
    torch.save(state, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, _: path.write_text("weights\n"), "no PyTorch file"),
        (lambda path, _: path.write_bytes(b""), "damaged or no PyTorch file"),
        (lambda path, weights: path.write_bytes(weights.read_bytes()[:-1000]), "damaged or no PyTorch file"),
        (_save({"fc.weight": _RunsCode()}), "could run code"),
        (_save([torch.zeros(3)]), "not a dictionary of tensors"),
        (_save({"fc.weight": 3}), "not a dictionary of tensors"),
        (_save({"fc.weight": torch.zeros(3)}), "Missing key"),
        (partial(_altered, name="fc.bias", value=None), r'Missing key.*"fc\.bias"'),
        (partial(_altered, name="fc.bias", value=torch.zeros(1000)), r"size mismatch for fc\.bias"),
        (partial(_altered, name="fc.bias", value=torch.full((1008,), torch.nan)), r"fc\.bias holds NaN"),
    ],
    ids=["text", "empty", "cut off", "pickled code", "list", "number", "one tensor", "key", "shape", "NaN"],
)
def test_a_file_without_inceptions_weights_is_refused(
    write: object, message: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(path := tmp_path / "bad.pth", weights)
    with pytest.raises(ArtifactError, match=rf"bad\.pth does not hold Inception's weights: .*{message}") as refused:
        InceptionFeatures.load(path, CPU)
    assert "--inception-weights" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "pickle-was-run").exists()
    path.unlink()  # up to 100 MB
