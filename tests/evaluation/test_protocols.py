"""The named protocols. Inception and CLIP have random weights here: the published ones need a network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diff_es.artifacts import sha256
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation.inception import InceptionFeatures
from diff_es.evaluation.protocol import Given
from diff_es.evaluation.protocols import protocols
from diff_es.evaluation.quality import Measured
from diff_es.evaluation.records import Samples
from diff_es.evaluation.reference import write_reference
from diff_es.evaluation.store import StoredSamples, stored
from diff_es.metrics import Gaussian, gaussian
from diff_es.sampling import ImageRequests, PromptRequests, Requests, SamplerConfig
from random_inception import save_random_inception
from text_models import save_tiny_clip

ADM, COCO = protocols["adm-imagenet256"], protocols["coco2017"]
SAMPLER = SamplerConfig(20, 2.1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = save_random_inception(tmp_path_factory.mktemp("weights") / "inception.pth")
    yield path
    path.unlink()  # 100 MB


def blobs(count: int, seed: int, height: int, width: int) -> Tensor:
    """Smooth random pictures, (N, H, W, 3) uint8."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def samples_of(images: Tensor, requests: ImageRequests, folder: Path) -> StoredSamples:
    """Those images, stored in chunks of 5."""

    def produce(batch: ImageRequests) -> dict[str, Tensor]:
        first = batch.seeds[0] - requests.seeds[0]
        return {"images": images[first : first + len(batch)]}

    return stored(folder, requests, produce, settings=Samples(len(images), 0), chunk=5)


def shared(count: int) -> Measured:
    return Measured(Samples(count, 0), SAMPLER, "cpu")


def frechet(a: Tensor, b: Tensor) -> float:
    """Between the Gaussians of few features: tr (A B)^½ is the sum of the singular values of X_a X_bᵀ."""
    a, b = a.double(), b.double()
    x, y = ((part - part.mean(0)) / np.sqrt(len(part) - 1) for part in (a, b))
    spread = x.square().sum() + y.square().sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def neighbours_share(points: Tensor, centres: Tensor, k: int = 3) -> float:
    """Share of points within the k-th neighbour's distance of any centre, by brute force."""
    between = torch.cdist(centres.double(), centres.double(), compute_mode="donot_use_mm_for_euclid_dist")
    radii = between.sort(dim=1).values[:, k]
    apart = torch.cdist(points.double(), centres.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return float((apart <= radii).any(dim=1).double().mean())


def score(logits: Tensor, splits: int = 10) -> float:
    """The inception score, in the given order."""
    p = logits.double().softmax(dim=1).numpy()
    parts = [p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)]
    return float(np.mean([np.exp((part * np.log(part / part.mean(0))).sum(1).mean()) for part in parts]))


def test_adm(weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    real, generated = blobs(6, 1, 256, 256), blobs(12, 2, 256, 256)
    inception = InceptionFeatures.load(weights, torch.device("cpu"))
    # The statistics are those of all real images, of which the file holds some.
    known = inception.extract_batches([real.permute(0, 3, 1, 2)])
    statistics = torch.cat([known.pool3, known.pool3[:2] + 0.1])
    write_reference(tmp_path / "reference.npz", gaussian(statistics), real.numpy())
    given = Given(tmp_path / "reference.npz", weights, batch_size=4)
    requests = ADM.requests(given, 12, 0)
    assert requests == Requests(tuple(range(12)), tuple(range(12)))

    with caplog.at_level(logging.WARNING):
        opened = ADM.open(given)
    assert "not those of 2015-12-05" in caplog.text
    assert opened.sources == {"reference": sha256(tmp_path / "reference.npz"), "inception": sha256(weights)}
    measured = opened.prepare()(samples_of(generated, requests, tmp_path / "images"), requests, shared(12))

    output = inception.extract_batches([generated.permute(0, 3, 1, 2)])
    expected = {
        "fid": frechet(output.pool3, statistics),
        "inception_score": score(output.logits),
        "precision": neighbours_share(output.pool3, known.pool3),
        "recall": neighbours_share(known.pool3, output.pool3),
    }
    assert {own.metric: own.value for own in measured} == pytest.approx(expected, rel=1e-4)
    assert [own.higher_is_better for own in measured] == [False, True, True, True]
    for own in measured:
        assert (own.samples, own.sampling, own.device) == (Samples(12, 0), SAMPLER, "cpu")
        assert (own.weights, own.computed_by) == (sha256(weights), inception.version)
    assert measured[0].reference == "reference.npz (6 images and its stored statistics)"


def test_coco(weights: Path, tmp_path: Path) -> None:
    """Real images of several sizes are read at their own sizes."""
    (tmp_path / "val2017").mkdir()
    real = [blobs(1, seed, *size) for seed, size in enumerate([(40, 60), (50, 30), (50, 30), (33, 44)])]
    for index, image in enumerate(real):
        Image.fromarray(image[0].numpy()).save(tmp_path / "val2017" / f"{index}.png")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"picture {i}\n" for i in range(9)))
    save_tiny_clip(tmp_path / "clip")
    given = Given(tmp_path / "val2017", weights, prompts, str(tmp_path / "clip"), batch_size=4)
    requests = COCO.requests(given, 7, 3)
    assert requests == PromptRequests(tuple(f"picture {i}" for i in range(7)), tuple(range(3, 10)))

    generated = blobs(7, 9, 32, 32)
    opened = COCO.open(given)
    fid, clip = opened.prepare()(samples_of(generated, requests, tmp_path / "images"), requests, shared(7))

    inception = InceptionFeatures.load(weights, torch.device("cpu"))
    features = [inception.extract_batches([image.permute(0, 3, 1, 2)]).pool3 for image in (*real, generated)]
    assert fid.value == pytest.approx(frechet(torch.cat(features[:-1]), features[-1]), rel=1e-4)
    assert (fid.metric, fid.higher_is_better, fid.reference) == ("fid", False, "4 images of val2017")
    assert (clip.metric, clip.higher_is_better, clip.reference) == ("clip_score", True, "")
    assert 0 <= clip.value <= 1 and clip.interval is not None
    assert clip.interval[0] <= clip.value <= clip.interval[1]
    assert set(opened.sources) == {"reference", "inception", "clip"}
    assert clip.weights == opened.sources["clip"] == sha256(tmp_path / "clip" / "model.safetensors")


def test_coco_takes_stored_statistics(weights: Path, tmp_path: Path) -> None:
    statistics = gaussian(torch.randn(5, 2048, generator=torch.Generator().manual_seed(0)))
    write_reference(tmp_path / "val2017.npz", statistics, None)
    save_tiny_clip(tmp_path / "clip")
    opened = COCO.open(Given(tmp_path / "val2017.npz", weights, clip=str(tmp_path / "clip")))
    assert opened.sources["reference"] == sha256(tmp_path / "val2017.npz")
    opened.prepare()


def test_coco_reads_captions(tmp_path: Path) -> None:
    captions = '{"images": [{"id": 7}, {"id": 3}], "annotations": [{"image_id": 7, "caption": "a boot"}, '
    captions += '{"image_id": 3, "caption": "a bag"}, {"image_id": 3, "caption": "another"}]}'
    (tmp_path / "captions.json").write_text(captions)
    assert COCO.requests(Given(prompts=tmp_path / "captions.json"), 2, 0) == PromptRequests(("a bag", "a boot"), (0, 1))
    with pytest.raises(InputError, match="count=3"):
        COCO.requests(Given(prompts=tmp_path / "captions.json"), 3, 0)


def test_the_name_says_what_is_not_the_protocols_own() -> None:
    assert ADM.title(50_000, 0) == "adm-imagenet256"
    assert ADM.title(1000, 0) == "adm-imagenet256 (1,000 of 50,000 images)"
    assert ADM.title(60_000, 0) == "adm-imagenet256 (60,000 images instead of 50,000)"
    assert COCO.title(10, 7) == "coco2017 (10 of 5,000 images, seeds from 7 instead of 0)"
    assert COCO.title(5000, 7) == "coco2017 (seeds from 7 instead of 0)"
    with pytest.raises(InputError, match=r"images=9 are too few for adm-imagenet256, .* needs at least 10"):
        ADM.check_images(9)


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(InputError, match="Unknown protocol 'adm-imagenet': did you mean 'adm-imagenet256'"):
        protocols["adm-imagenet"]


@pytest.mark.parametrize(
    ("gaussian_of", "images", "message"),
    [
        (2048, None, "lacks arr_0, which adm-imagenet256 needs"),
        (None, (5, 256, 256), "lacks mu and sigma"),
        (64, (5, 256, 256), "statistics of 64 features; those of Inception's pool3 have 2048"),
        (2048, (5, 64, 64), r"holds images \(5, 64, 64, 3\); adm-imagenet256 needs more than 3 of 256 × 256"),
        (2048, (3, 256, 256), r"holds images \(3, 256, 256, 3\)"),
    ],
)
def test_a_reference_that_adm_cannot_use(
    tmp_path: Path, gaussian_of: int | None, images: tuple[int, int, int] | None, message: str
) -> None:
    """Found out before the network is loaded and anything is generated."""
    path = tmp_path / "reference.npz"
    statistics = gaussian_of and Gaussian(torch.zeros(gaussian_of).double(), torch.eye(gaussian_of).double())
    write_reference(path, statistics or None, None if images is None else np.zeros((*images, 3), np.uint8))
    with pytest.raises(InputError, match=message):
        ADM.open(Given(path, tmp_path / "no weights"))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adm-imagenet256 compares with real images: give a reference, ADM's VIRTUAL"):
        ADM.open(Given())
    with pytest.raises(InputError, match=r"reference=.*nowhere does not exist; coco2017 needs the folder val2017"):
        COCO.open(Given(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"is a folder; adm-imagenet256 compares with the statistics of an \.npz"):
        ADM.open(Given(tmp_path))
    with pytest.raises(InputError, match="coco2017 needs prompts"):
        COCO.requests(Given(), 5000, 0)
    (tmp_path / "prompts.txt").write_text("one\n")
    with pytest.raises(InputError, match=r"holds 1 prompts for 5000 images"):
        COCO.requests(Given(prompts=tmp_path / "prompts.txt"), 5000, 0)
    with pytest.raises(InputError, match="batch_size=0"):
        replace(Given(), batch_size=0)
    with pytest.raises(ArtifactError, match=r"is damaged, cut off or no \.npz file"):
        COCO.open(Given(tmp_path / "prompts.txt"))
