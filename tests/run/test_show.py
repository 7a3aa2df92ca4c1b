"""What a run's report shows: the worst images by SSIM, with their own seeds and labels, and the searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from diff_es.evaluation import StoredSamples, stored
from diff_es.report import ReportContent
from diff_es.report.gallery import gallery_page
from diff_es.run import Session
from diff_es.run.measure import Bench, Contestant
from diff_es.run.show import gallery, licences, report_content
from diff_es.sampling import PromptRequests, Requests
from largest_tensor import LargestTensor
from run.tiny_run import Finished

COUNT = 14
LABELS = tuple((3 * i + 1) % 10 for i in range(COUNT))
SEEDS = tuple(range(500, 500 + COUNT))
REQUESTS = Requests(LABELS, SEEDS)
#: How much noise hides each image: all different, and not in order.
HARM = torch.tensor([0.1, 0.9, 0.0, 0.3, 0.5, 0.05, 0.7, 0.2, 0.15, 0.8, 0.4, 0.25, 0.6, 0.35])


def pixels(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (COUNT, 32, 32, 3), generator=generator).to(torch.uint8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredSamples]:
    """Images of a dense model, and of two schedules that harm them: one more, and other images."""
    dense, noise = pixels(0).float(), pixels(1).float()
    mixed = {
        "dense": dense,
        "mild": torch.lerp(dense, noise, 0.3 * HARM[:, None, None, None]),
        "harsh": torch.lerp(dense, noise, HARM.flip(0)[:, None, None, None]),
    }
    folder = tmp_path_factory.mktemp("samples")

    def keep(name: str) -> StoredSamples:
        images = mixed[name].round().to(torch.uint8)
        rows = dict(zip(SEEDS, images, strict=True))

        def produce(requests: Requests) -> dict[str, Tensor]:
            return {"images": torch.stack([rows[seed] for seed in requests.seeds])}

        return stored(folder / name, REQUESTS, produce, settings=SEEDS, chunk=5)

    return {name: keep(name) for name in mixed}


def ssim(own: np.ndarray, dense: np.ndarray) -> float:
    """Mirror the border, let scikit-image make the map, and average the pixels of the original image."""
    border = 5
    a, b = (np.pad(x / 255, ((border, border), (border, border), (0, 0)), "reflect") for x in (own, dense))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, similarity = structural_similarity(a, b, channel_axis=2, full=True, **settings)
    return float(similarity[border:-border, border:-border].mean())


@pytest.mark.parametrize("name", ["mild", "harsh"])
def test_the_worst_cases_are_those_of_lowest_ssim(samples: dict[str, StoredSamples], name: str) -> None:
    shown = gallery(samples, REQUESTS, fashion=False)
    own, dense = (samples[side].tensor("images").numpy() for side in (name, "dense"))
    values = [ssim(own[i], dense[i]) for i in range(COUNT)]
    rows = sorted(range(COUNT), key=values.__getitem__)[:4]
    cases = shown.worst[name]
    assert [case.seed for case in cases] == [SEEDS[row] for row in rows]
    assert [case.label for case in cases] == [str(LABELS[row]) for row in rows]
    for case, row in zip(cases, rows, strict=True):
        assert case.ssim == pytest.approx(values[row], abs=1e-4)
        np.testing.assert_array_equal(case.pruned, own[row])
        np.testing.assert_array_equal(case.dense, dense[row])


def test_the_worst_are_found_file_by_file(tmp_path: Path) -> None:
    """At no time are more images there than a file holds: thousands would not fit in memory."""
    per_file, size, requests = 4, 64, Requests((0,) * 40, tuple(range(40)))

    def noise(shift: int) -> StoredSamples:
        def produce(batch: Requests) -> dict[str, Tensor]:
            own = [torch.Generator().manual_seed(seed + shift) for seed in batch.seeds]
            images = [torch.randint(0, 256, (size, size, 3), generator=one, dtype=torch.uint8) for one in own]
            return {"images": torch.stack(images)}

        return stored(tmp_path / str(shift), requests, produce, settings=shift, chunk=per_file)

    with LargestTensor() as seen:
        shown = gallery({"dense": noise(0), "other": noise(100)}, requests, fashion=False)
    assert len(shown.worst["other"]) == 4 and len(shown.seeds) == 10
    assert seen.elements < 2 * 5 * 3 * per_file * size**2, "five maps of three colours, and their borders"


def test_the_grid_has_the_first_images_of_all(samples: dict[str, StoredSamples]) -> None:
    shown = gallery(samples, REQUESTS, fashion=True)
    assert list(shown.images) == ["dense", "mild", "harsh"] and set(shown.worst) == {"mild", "harsh"}
    assert shown.seeds == SEEDS[:10]
    assert shown.labels[:4] == ("trouser", "coat", "sneaker", "t-shirt"), "the names of labels 1, 4, 7 and 0"
    assert gallery(samples, REQUESTS, fashion=False).labels[:4] == ("1", "4", "7", "0")
    for name, images in shown.images.items():
        np.testing.assert_array_equal(images, samples[name].tensor("images")[:10].numpy())


def test_images_are_called_by_their_prompts_shortened(samples: dict[str, StoredSamples]) -> None:
    prompts = ("a dog", "a photo of an ankle boot that is longer than fits", *("a cat",) * (COUNT - 2))
    shown = gallery(samples, PromptRequests(prompts, SEEDS, LABELS), fashion=True)
    assert shown.labels[:3] == ("a dog", "a photo of an ankle boot that…", "a cat")
    assert {case.label for cases in shown.worst.values() for case in cases} <= {*shown.labels}
    assert "Images by dense: a dog, seed 500; a photo of" in gallery_page(shown).sheets[0].strips[0].alt


@pytest.fixture(scope="module")
def content(finished: Finished) -> ReportContent:
    session = Session(finished.recipe, finished.folder)
    searched = [
        Contestant(f"searched, {name}", "", session.schedule(name), session.bank, search=name)
        for name in ("uniform", "sensitivity")
    ]
    bench = Bench(session.pipe, session.sampler, None)
    contestants = (Contestant("dense", ""), *searched)
    return report_content(session, bench, contestants, finished.result.evaluation, "")


def test_a_report_holds_the_searches_and_the_checksums(finished: Finished, content: ReportContent) -> None:
    assert list(content.schedules) == list(content.history) == ["searched, uniform", "searched, sensitivity"]
    records = finished.result.search.history
    points = content.history["searched, sensitivity"]
    assert [point.generation for point in points] == [record.generation for record in records]
    assert points[-1].best == finished.result.search.fitness
    assert all(point.best >= point.mean >= point.worst for point in points)
    assert content.fitness == "ssim on 2 probes"
    assert set(content.provenance.checksums) == {
        f"pruned/{path.name}" for path in (finished.folder / "pruned").iterdir()
    }
    assert content.provenance.command == "diff-es run recipe.yaml --output finished-run"
    assert content.title.endswith(": 50% of the prunable MACs removed")


def test_nothing_is_sampled_again(finished: Finished, content: ReportContent) -> None:
    """The images of the report are the stored ones, of the seeds that quality was measured on."""
    folder = finished.folder / "evaluation"
    seeds = Session(finished.recipe, finished.folder).evaluation_images().seeds
    assert content.gallery.seeds == seeds
    assert {path.name for path in folder.iterdir()} == {"dense", "searched-uniform", "searched-sensitivity"}


@pytest.mark.parametrize(
    ("model", "metric", "words"),
    [
        ("zoo:fashion-dit", "ssim", ["Fashion-MNIST, MIT"]),
        ("facebook/DiT-XL-2-256", "ssim", ["see the model card"]),
        ("zoo:fashion-dit", "topiq", ["Apache-2.0", "not for commercial use"]),
    ],
)
def test_licences_are_told(model: str, metric: str, words: list[str]) -> None:
    known = licences(model, metric)
    assert model in known and len(known) == 1 + (metric == "topiq")
    for word in words:
        assert any(word in text for text in known.values())
