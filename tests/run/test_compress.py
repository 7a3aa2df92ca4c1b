"""A run from start to end: everything is there, for every pruner, and the artefact gives the run's own images."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diff_es.artifacts import locked
from diff_es.bank import Bank, Pruned
from diff_es.errors import InputError
from diff_es.evaluation import Evaluation
from diff_es.images import LabelledImages
from diff_es.pipelines import load_pipeline
from diff_es.pruning import pruners
from diff_es.recipe import Recipe
from diff_es.routing import routed
from diff_es.run import Session, compress, estimate
from diff_es.run.data import load_images
from diff_es.run.judges import known_judge
from diff_es.run.measure import Bench, Contestant, evaluate
from diff_es.sampling import Requests, class_labels, sample
from run.tiny_run import Finished, canonical_journal, saved_model, tensor_count, tiny_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.getbasetemp())


def test_the_run_directory_is_complete(finished: Finished) -> None:
    folder = finished.folder
    assert {item.name for item in folder.iterdir()} == {
        ".lock",
        "recipe.yaml",
        "calibration",
        "bank",
        "search",
        "pruned",
        "evaluation",
        "evaluation.json",
        "figures",
        "report.html",
    }
    assert Recipe.read(folder / "recipe.yaml") == finished.recipe
    assert len(list((folder / "calibration").glob("stage-*.safetensors"))) == 3
    assert {item.name for item in (folder / "search").iterdir()} == {"sensitivity", "sensitivity.json", "uniform"}
    contestants = ("dense", "searched-uniform", "searched-sensitivity")
    kept = {path.relative_to(folder / "evaluation").as_posix() for path in (folder / "evaluation").rglob("*.*")}
    files = ("settings.json", "000000-000003.safetensors", "quality.json")
    assert kept == {f"{name}/{file}" for name in contestants for file in files}
    assert not list(folder.rglob("*.tmp"))
    assert "diff-es run tiny.yaml" in (folder / "report.html").read_text()
    for picture in (folder / "figures").iterdir():
        with Image.open(picture) as image:
            assert min(image.size) > 100, picture


def test_the_result_is_the_best_of_the_journal(finished: Finished) -> None:
    search = finished.result.search
    entries = canonical_journal(finished.folder / "search" / "sensitivity" / "journal.jsonl")
    assert len(entries) == search.evaluated
    best = max(entries, key=lambda entry: (entry[3], -entry[0], [-level for level in entry[2]]))
    assert (tuple(best[2]), best[3]) == (search.levels, search.fitness)
    pruned = Pruned.open(finished.folder / "pruned")
    assert pruned.info.schedule.levels == search.levels
    assert sum(search.levels) == 6, "half of H = 4 in each of three equal stages"


def test_the_evaluation_measures_dense_against_itself(finished: Finished) -> None:
    dense, uniform, ours = finished.result.evaluation.schedules
    assert (dense.name, uniform.name, ours.name) == ("dense", "searched, uniform", "searched, sensitivity")
    assert dense.value("ssim") == pytest.approx(1, abs=1e-6)
    assert dense.value("latent_mse") == 0 and dense.cost.macs_ratio == 1
    for row in (uniform, ours):
        ssim, mse = row.value("ssim"), row.value("latent_mse")
        assert ssim is not None and ssim < 0.999 and mse is not None and mse > 0
        assert 0.3 < row.cost.macs_ratio < 0.9
        assert len(row.cost.parameters_per_stage) == 3
        assert max(row.cost.parameters_per_stage) <= row.cost.parameters == dense.cost.parameters
        for scope in ("denoiser", "pipeline"):
            assert row.cost.latency_of(2, scope).median_ms > 0
    assert ours.cost.macs <= uniform.cost.macs * 1.1
    assert dense.value("label_agreement") is None, "no classifier knows a random model"
    assert finished.result.evaluation == Evaluation.read(finished.folder / "evaluation.json")


def test_the_estimate_bounds_the_run(finished: Finished) -> None:
    predicted = estimate(Session(finished.recipe, Path("never-made")))
    entries = canonical_journal(finished.folder / "search" / "sensitivity" / "journal.jsonl")
    starts = sum(generation == 0 for generation, *_ in entries)
    assert predicted.evaluations == 2 * (starts + 2 * 3), "two searches, two generations of three"
    assert starts < len(entries) <= predicted.evaluations // 2
    stocks = [path for name in ("calibration", "bank", "pruned") for path in (finished.folder / name).iterdir()]
    samples = list((finished.folder / "evaluation").glob("*/*.safetensors"))
    real = sum(path.stat().st_size for path in (*stocks, *samples))
    assert real / 1.5 < predicted.disk_bytes < 1.5 * real
    assert 0 < predicted.seconds_per_image < 10 and predicted.search_seconds > 0 and predicted.other_seconds > 0
    assert not Path("never-made").exists()


#: What one image takes: pixels, latents in float32, seed.
STORED = 16 * 16 * 3 + 4 * 4 * 4 * 4 + 8


def test_the_estimate_counts_the_images_of_every_row(finished: Finished) -> None:
    (file,) = (finished.folder / "evaluation" / "dense").glob("*.safetensors")
    assert 4 * STORED < file.stat().st_size < 4 * STORED + 1000

    def disk(**changes: Any) -> int:
        return estimate(Session(tiny_recipe(finished.model, **changes), Path("never-made"))).disk_bytes

    many, few = (disk(evaluation={"images": count}) for count in (64_000, 64))
    assert many - few == pytest.approx(3 * (64_000 - 64) * STORED, rel=0.02)
    uniform = {"search": {"allocation": "uniform"}}
    many, few = (disk(evaluation={"images": count}, **uniform) for count in (64_000, 64))
    assert many - few == pytest.approx(2 * (64_000 - 64) * STORED, rel=0.02), "its own search is no second row"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty labelled images of noise, for pruners that cannot be calibrated by sampling."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    np.savez(path, images=pixels, labels=np.arange(20) % 10)
    return path


def calibration_of(method: str, images: Path) -> dict[str, Any]:
    """Sampling, where the pruner can do with it."""
    if "importance" in pruners[method].needs:
        return {"source": "dataset", "data": str(images), "samples": 20}
    return {}


@pytest.mark.parametrize("method", sorted(set(pruners) - {"obs"}))
def test_the_estimate_knows_every_pruner(model: Path, images: Path, method: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(model, pruning={"method": method}, calibration=calibration_of(method, images))
    session = Session(recipe, tmp_path / "run")
    session.pruned()
    folders = [tmp_path / "run" / name for name in ("latents", "calibration", "bank", "pruned")]
    shards = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    images_of_all_rows = 3 * recipe.evaluation.images * STORED
    assert estimate(session).disk_bytes - images_of_all_rows == pytest.approx(shards, rel=0.5, abs=4096)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("method", "allocation"),
    [
        ("obs", "uniform"),
        ("wanda", "sensitivity"),
        ("magnitude", "uniform"),
        ("layerdrop", "sensitivity"),
        ("obs-diff", "uniform"),
        ("diff-pruning", "uniform"),
    ],
)
def test_every_pruner_runs_to_the_artefact(  # noqa: PLR0917 (three fixtures)
    model: Path, images: Path, tmp_path: Path, method: str, allocation: str, shared: bool
) -> None:
    recipe = tiny_recipe(
        model,
        pruning={"method": method, "levels": 2},
        calibration={"shared": shared, **calibration_of(method, images)},
        search={"allocation": allocation, "generations": 1},
        evaluation={"compare": []},
    )
    session = Session(recipe, tmp_path / "run")
    pruned = session.pruned()
    bank = Bank.open(tmp_path / "run" / "bank")
    assert pruned.info.method == method
    assert bank.info.shared == (shared or pruners[method].one_set)
    assert len(list((tmp_path / "run" / "bank").glob("*.safetensors"))) == len(bank.shards)
    if method == "magnitude":
        assert not (tmp_path / "run" / "calibration").exists(), "weights alone need no calibration"
    else:
        assert tensor_count(tmp_path / "run" / "calibration") > 0
    requests = session.evaluation_images()
    with routed(session.pipe, session.bank, session.schedule(allocation)):
        from_bank = sample(session.pipe, requests, session.sampler)
    with routed(session.pipe, pruned, pruned.info.schedule, mode="gather"):
        from_artefact = sample(session.pipe, requests, session.sampler)
    assert torch.equal(from_bank, from_artefact)
    assert not torch.equal(from_bank, sample(session.pipe, requests, session.sampler))


def test_the_artefact_gives_the_same_images_in_another_process(finished: Finished, tmp_path: Path) -> None:
    session = Session(finished.recipe, finished.folder)
    requests = Requests.cycle(class_labels(session.pipe), 4, 77)
    contestant = Contestant("searched", "", session.schedule("sensitivity"), session.bank)
    with Bench(session.pipe, session.sampler, None).contender(contestant)():
        here = sample(session.pipe, requests, session.sampler).numpy()
    program = """
import sys, numpy, diff_es
pipe = diff_es.load_pipeline(sys.argv[1], device="cpu")
pruned = diff_es.load(sys.argv[2], pipe)
requests = diff_es.Requests.cycle(range(10), 4, 77)
numpy.save(sys.argv[3], diff_es.sample(pipe, requests, pruned.info.sampler).numpy(), allow_pickle=False)
"""
    there = tmp_path / "images.npy"
    arguments = [str(finished.model), str(finished.folder / "pruned"), str(there)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    np.testing.assert_array_equal(np.load(there, allow_pickle=False), here)


def test_a_pipeline_that_is_loaded_already_is_taken(finished: Finished, model: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(str(model), device="cpu")
    recipe = finished.recipe.model_copy(update={"model": "a name that nothing is loaded by"})
    result = compress(recipe, tmp_path / "run", pipe=pipe)
    assert result.search == finished.result.search
    assert result.pruned.info.base_model == recipe.model


def test_a_run_on_images_of_a_folder(model: Path, tmp_path: Path) -> None:
    """Grey, opaque and large images are read; their latents are kept."""
    pixels = np.random.default_rng(0)
    for index, mode in enumerate(("RGB", "L", "RGBA", "P")):
        folder = tmp_path / "data" / str(index)
        folder.mkdir(parents=True)
        size = (16, 16) if index else (40, 24)
        Image.fromarray(pixels.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(folder / "a.png")
    section = {"source": "dataset", "data": str(tmp_path / "data"), "samples": 4}
    recipe = tiny_recipe(model, calibration=section, search={"generations": 0, "allocation": "uniform"})
    assert compress(replace_compare(recipe), tmp_path / "run").search.evaluated > 0
    assert [path.name for path in (tmp_path / "run" / "latents").glob("*.safetensors")] == ["000000-000003.safetensors"]


def replace_compare(recipe: Recipe) -> Recipe:
    """Compare with hand-made schedules only."""
    settings = recipe.model_dump(mode="json")
    settings["evaluation"]["compare"] = ["uniform", "three-stage"]
    return Recipe.parse(settings)


def test_images_of_an_npz_must_have_the_models_size(model: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(str(model), device="cpu")
    labels = np.arange(3)
    np.savez(tmp_path / "right.npz", images=np.zeros((3, 16, 16, 3), np.uint8), labels=labels)
    recipe = tiny_recipe(model, calibration={"data": str(tmp_path / "right.npz"), "samples": 3})
    images = load_images(recipe.calibration, pipe)
    assert isinstance(images, LabelledImages) and len(images.images) == 3


def test_latency_is_measured_with_the_batches_that_the_recipe_names(finished: Finished, tmp_path: Path) -> None:
    """Also where fewer images are evaluated than one timed batch holds."""
    recipe = tiny_recipe(finished.model, evaluation={"images": 4, "latency_batch_sizes": [5, 1], "latency_repeats": 1})
    session = Session(recipe, tmp_path)
    rows: list[int] = []
    session.pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    measured = evaluate(session, Bench(session.pipe, session.sampler, None), (Contestant("dense", ""),))
    assert set(rows) == {10, 2, 4}, "five images and one, guided; images are sampled in batches of two"
    timed = [(entry.batch_size, entry.scope) for entry in measured.dense.cost.latency]
    assert timed == [(5, "denoiser"), (5, "pipeline"), (1, "denoiser"), (1, "pipeline")]


def test_a_run_of_a_shipped_model_is_judged_by_the_shipped_classifier(finished: Finished, tmp_path: Path) -> None:
    """Here it looks at the noise of a random model."""
    recipe = tiny_recipe(finished.model, evaluation={"latency_batch_sizes": [1], "latency_repeats": 1})
    session, judge = Session(recipe, tmp_path), known_judge("zoo:fashion-dit")
    assert judge is not None
    measured = evaluate(session, Bench(session.pipe, session.sampler, judge), (Contestant("dense", ""),))
    assert measured.protocol.name == "fidelity and fashion-classifier"
    assert "Fashion-MNIST classifier" in measured.protocol.text and "neither FID" in measured.protocol.text
    values = {own.metric: own for own in measured.dense.quality}
    assert list(values) == ["ssim", "latent_mse", "label_agreement", *judge.names]
    assert values["ssim"].value == pytest.approx(1, abs=1e-6) and 0 <= values["label_agreement"].value <= 1
    assert values["classifier_frechet"].value > 10, "noise is far from clothes"
    assert values["classifier_frechet"].weights == judge.weights


def test_a_recipe_that_cannot_be_carried_out_leaves_no_folder(model: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"pruning": {"method": "obss"}},
        {"search": {"metric": "ssimm"}},
        {"stages": 7},
        {"device": "cuda:4711"},
        {"search": {"algorithm": "evolutoin"}},
        {"pruning": {"method": "diff-pruning"}},
    ]
    for changes in wrong:
        with pytest.raises(InputError):
            compress(tiny_recipe(model, **changes), tmp_path / "run")
        with pytest.raises(InputError):
            estimate(Session(tiny_recipe(model, **changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_two_runs_on_one_folder(finished: Finished) -> None:
    with locked(finished.folder), pytest.raises(InputError, match=r"finished-run is in use by another run"):
        compress(finished.recipe, finished.folder, resume=True)


def test_seeds_of_different_purposes_never_meet(finished: Finished) -> None:
    sessions = [Session(tiny_recipe(finished.model, seed=seed), finished.folder) for seed in (0, 1)]
    sets = [set(s.requests(purpose, 1000).seeds) for s in sessions for purpose in range(4)]
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_every_measurement_names_its_seeds(finished: Finished) -> None:
    content = json.loads((finished.folder / "evaluation.json").read_text())
    session = Session(finished.recipe, finished.folder)
    for row in content["schedules"]:
        for number in row["quality"]:
            assert number["samples"] == {"count": 4, "first_seed": session.evaluation_images().seeds[0]}
            assert number["sampling"] == {"num_inference_steps": 6, "guidance_scale": 4.0, "arguments": {}}
    assert content["protocol"]["model"] == str(finished.model)
    assert content["protocol"]["name"] == "fidelity" and "classifier" not in content["protocol"]["text"]
    assert replace(session.sampler, guidance_scale=1.0).guided is False and session.sampler.guided
