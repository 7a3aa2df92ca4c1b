"""Whole runs of a real SDXL pipeline and a real FLUX pipeline, tiny and untrained."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file

from diff_es.bank import Pruned
from diff_es.denoisers import denoiser_of
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation.caches import DeepCache, FirstBlockCache
from diff_es.recipe import Recipe
from diff_es.routing import is_routed, load, routed
from diff_es.run import RunResult, Session, compress, estimate, generate_images, inspect_model
from diff_es.sampling import PromptRequests, SamplerConfig, sample
from diff_es.timesteps import sampler_timesteps
from run.text_runs import FLUX, PROMPTS, captioned_folder, captioned_npz, text_recipe, write_prompts
from run.tiny_run import outcome
from tiny_pipelines import BUILDERS, flow, tiny_flux, tiny_sdxl


@dataclass(frozen=True)
class TextRun:
    """A finished run; `build` makes its dense pipeline anew."""

    build: Callable[[], Any]
    recipe: Recipe
    folder: Path
    result: RunResult


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    """Saved, and loaded from its folder as users do; calibrated on an image folder with captions."""
    base = tmp_path_factory.mktemp("sdxl")
    tiny_sdxl(base / "tokenizer").save_pretrained(base / "model")
    recipe = text_recipe(base / "model", write_prompts(base), captioned_folder(base / "data"))
    result = compress(recipe, base / "run")
    return TextRun(lambda: tiny_sdxl(base / "tokenizer"), recipe, base / "run", result)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    """Four stages of one step each; calibrated on an npz."""
    base = tmp_path_factory.mktemp("flux")
    recipe = text_recipe("tiny-flux", write_prompts(base), captioned_npz(base / "data.npz"), **FLUX)
    pipe = tiny_flux(base / "tokenizer")
    return TextRun(
        lambda: tiny_flux(base / "tokenizer"), recipe, base / "run", compress(recipe, base / "run", pipe=pipe)
    )


@pytest.fixture(params=["sdxl", "flux"])
def finished(request: pytest.FixtureRequest) -> TextRun:
    run: TextRun = request.getfixturevalue(request.param)
    return run


REQUESTS = PromptRequests.consecutive(PROMPTS[:2], 77)


def test_a_run_from_start_to_end(finished: TextRun) -> None:
    stages, half = finished.recipe.stages, finished.recipe.pruning.levels // 2
    levels = finished.result.search.levels
    assert len(levels) == stages and sum(levels) == stages * half
    dense, ours = finished.result.evaluation.schedules
    assert dense.value("latent_mse") == 0 and (ours.value("latent_mse") or 0) > 0
    assert ours.cost.macs < dense.cost.macs and len(ours.cost.parameters_per_stage) == stages
    assert "same seed and prompt" in finished.result.evaluation.protocol.text
    assert [path.name for path in sorted((finished.folder / "latents").glob("*.safetensors"))] == [
        "000000-000005.safetensors"
    ]
    assert PROMPTS[-1] in (finished.folder / "report.html").read_text()


@pytest.mark.parametrize(
    "lost",
    [
        ("latents", "calibration/stage-01.safetensors", "bank", "search/sensitivity.json"),
        ("search", "pruned", "evaluation/dense", "evaluation.json", "report.html"),
    ],
    ids="+".join,
)
def test_a_resumed_run_ends_the_same(finished: TextRun, tmp_path: Path, lost: tuple[str, ...]) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    for name in lost:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if "evaluation.json" in lost:
        compress(finished.recipe, folder, pipe=finished.build(), resume=True)
    else:
        session = Session(finished.recipe, folder, finished.build())
        assert session.sensitivity.levels and session.bank.num_levels == 2
    assert outcome(folder) == outcome(finished.folder)


def test_the_artefact_gives_the_runs_own_images(finished: TextRun) -> None:
    session = Session(finished.recipe, finished.folder, finished.build())
    with routed(session.pipe, session.bank, session.schedule("sensitivity")):
        expected = sample(session.pipe, REQUESTS, session.sampler)
    pipe = finished.build()
    dense = sample(pipe, REQUESTS, session.sampler)
    pruned = load(finished.folder / "pruned", pipe)
    images = sample(pipe, REQUESTS, pruned.info.sampler)
    assert torch.equal(images, expected) and not torch.equal(images, dense)


def test_images_from_prompts(sdxl: TextRun, tmp_path: Path) -> None:
    artefact = sdxl.folder / "pruned"
    paths = generate_images(artefact, tmp_path, prompts=["A dog, red!", "cat"], count=3, seed=5, device="cpu")
    assert [path.name for path in paths] == ["a-dog-red-seed-5.png", "cat-seed-6.png", "a-dog-red-seed-7.png"]
    with Image.open(paths[0]) as image:
        assert image.size == (16, 16)
    with pytest.raises(InputError, match=r"labels=\[3\], but StableDiffusionXLPipeline makes images from prompts"):
        generate_images(artefact, tmp_path, labels=[3], device="cpu")
    with pytest.raises(InputError, match="give at least one --prompt"):
        generate_images(artefact, tmp_path, device="cpu")


def test_other_prompts_are_another_run(sdxl: TextRun, tmp_path: Path) -> None:
    """The file may change behind the recipe's back; the journal and the images know."""
    folder = Path(shutil.copytree(sdxl.folder, tmp_path / "run"))
    changed = write_prompts(tmp_path, tuple(f"{prompt}!" for prompt in PROMPTS))
    recipe = sdxl.recipe.changed({"prompts": str(changed)})
    (folder / "search" / "sensitivity" / "result.json").unlink()
    with pytest.raises(ArtifactError, match=r"belongs to another search: fingerprint .* stands for .* prompts"):
        Session(recipe, folder).search("sensitivity")


def test_the_estimate_counts_the_latents(flux: TextRun) -> None:
    session = Session(flux.recipe, Path("never-made"), flux.build())
    folders = [flux.folder / name for name in ("latents", "calibration", "bank", "pruned")]
    real = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    assert real / 1.5 < estimate(session).disk_bytes < 1.5 * real


@pytest.mark.parametrize("method", ["wanda", "layerdrop"])
@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_other_pruners_run_to_the_artefact(
    sdxl: TextRun, flux: TextRun, tmp_path: Path, family: str, method: str
) -> None:
    run = {"sdxl": sdxl, "flux": flux}[family]
    changes = {"pruning": {"method": method, "levels": 2}, "search": {"generations": 0, "allocation": "uniform"}}
    source = {"calibration": {"source": "sampling", "samples": 2, "batch_size": 2}}
    session = Session(run.recipe.changed({**changes, **source}), tmp_path / "run", run.build())
    pruned = session.pruned()
    dense = sample(session.pipe, REQUESTS, session.sampler)
    with routed(session.pipe, session.bank, session.schedule("uniform")):
        from_bank = sample(session.pipe, REQUESTS, session.sampler)
    with routed(session.pipe, pruned, pruned.info.schedule, mode="gather"):
        from_artefact = sample(session.pipe, REQUESTS, session.sampler)
    assert torch.equal(from_bank, from_artefact) and not torch.equal(from_bank, dense)
    assert not is_routed(session.pipe)


def test_another_sampler_at_generation_is_told(flux: TextRun, caplog: pytest.LogCaptureFixture) -> None:
    pipe = flux.build()
    pipe.scheduler = flow(shift=1.3)
    with caplog.at_level(logging.WARNING):
        load(flux.folder / "pruned", pipe)
    assert "searched for FlowMatchEulerDiscreteScheduler, whose 4 steps visit 1000, 750, 500, 250" in caplog.text
    assert "whose 4 steps visit 1000, 795.9, 565.2, 302.3" in caplog.text
    assert is_routed(pipe)


@pytest.mark.parametrize(("shift", "steps", "missing"), [(3.0, 4, r"\[0\]"), (1.0, 2, r"\[0, 2\]"), (0.2, 4, r"\[2\]")])
def test_a_sampler_that_leaves_a_stage_out_is_refused(flux: TextRun, shift: float, steps: int, missing: str) -> None:
    """And the pipeline stays dense."""
    pipe = flux.build()
    pipe.scheduler = flow(shift=shift)
    with pytest.raises(InputError, match=rf"searched for .* 4 steps .* pipeline has .*stages {missing} of 4"):
        load(flux.folder / "pruned", pipe, sampler=SamplerConfig(steps, 0.0))
    assert not is_routed(pipe)


def test_the_same_steps_by_another_scheduler_are_told(sdxl: TextRun, caplog: pytest.LogCaptureFixture) -> None:
    pipe = sdxl.build()
    pipe.scheduler = DDIMScheduler(steps_offset=1)
    assert sampler_timesteps(pipe, 3) == Pruned.open(sdxl.folder / "pruned").info.plan.timesteps
    with caplog.at_level(logging.WARNING):
        load(sdxl.folder / "pruned", pipe)
    assert "EulerDiscreteScheduler" in caplog.text and "DDIMScheduler" in caplog.text


def test_prompts_are_kept_with_the_images(sdxl: TextRun) -> None:
    settings = json.loads((sdxl.folder / "evaluation" / "dense" / "settings.json").read_text())
    assert settings["requests"]["prompts"] == list(PROMPTS[-4:]), "those that no search saw"
    session = Session(sdxl.recipe, sdxl.folder, sdxl.build())
    assert session.search_probes().arguments() == {"prompt": list(PROMPTS[:2])}
    assert denoiser_of(session.pipe) is session.pipe.unet


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_inspection_counts_one_call(tmp_path: Path, build: Callable[[Path], Any]) -> None:
    pipe = build(tmp_path)
    calls: list[int] = []
    denoiser_of(pipe).register_forward_pre_hook(lambda *_: calls.append(1))
    inspection = inspect_model(pipe)
    assert inspection.macs > 0 and inspection.parts[0].layers > 0 and len(calls) <= 4


@pytest.mark.parametrize(
    ("name", "settings", "cache"),
    [("sdxl", {"deep_cache": 2}, DeepCache(2)), ("flux", {"first_block_cache": 1e9}, FirstBlockCache(1e9))],
)
def test_a_run_measured_under_a_cache(name: str, settings: dict[str, Any], cache: Any, tmp_path: Path) -> None:
    """The dense model is measured without it, and once more with it; searched is what was searched without."""
    changes = FLUX if name == "flux" else {}
    recipe = text_recipe("tiny", write_prompts(tmp_path), captioned_npz(tmp_path / "data.npz"), **changes)
    recipe = recipe.changed({"evaluation": settings, "search": {"algorithm": "uniform", "allocation": "uniform"}})
    pipe = (tiny_flux if name == "flux" else tiny_sdxl)(tmp_path / "tokenizer")
    session = Session(recipe, tmp_path / "run", pipe)
    plain = Session(
        recipe.changed({"evaluation": dict.fromkeys(settings, 1 if name == "sdxl" else 0.0)}), tmp_path, pipe
    )
    assert estimate(session).disk_bytes > estimate(plain).disk_bytes, "one row more"
    result = compress(recipe, tmp_path / "run", pipe=pipe)
    dense, unpruned, ours = result.evaluation.schedules
    assert [own.name for own in (dense, unpruned)] == ["dense", "unpruned"]
    assert unpruned.description == f"The model as it is, unpruned. With {cache}." and str(cache) in ours.description
    assert unpruned.levels == (0,) * recipe.stages
    assert ours.cost.macs < unpruned.cost.macs < dense.cost.macs
    assert (unpruned.value("latent_mse") or 0) > dense.value("latent_mse") == 0
    assert {entry.scope for entry in ours.cost.latency} == {"pipeline"}
    with cache.enabled(pipe):
        images = sample(pipe, session.evaluation_images(), session.sampler)
    (file,) = (tmp_path / "run" / "evaluation" / "unpruned").glob("*.safetensors")
    assert torch.equal(load_file(file)["images"], (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_a_cache_that_the_model_cannot_have_is_found_before_anything_runs(tmp_path: Path) -> None:
    recipe = text_recipe("tiny", write_prompts(tmp_path), captioned_npz(tmp_path / "data.npz"), **FLUX)
    session = Session(recipe.changed({"evaluation": {"deep_cache": 2}}), tmp_path, tiny_flux(tmp_path / "tokenizer"))
    with pytest.raises(InputError, match="DeepCache, interval 2 is for U-Nets"):
        session.check()
