"""A recipe with a sampler of its own: searched with it, recorded in the artefact, used again for images."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from diff_es.bank import Pruned
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import memory
from diff_es.evaluation.memory import MemoryTask, Setting
from diff_es.pipelines import load_pipeline
from diff_es.recipe import Recipe
from diff_es.routing import load, remove_
from diff_es.run import Session, compress
from diff_es.run.base import load_base
from diff_es.run.measure import Bench, Contestant
from diff_es.schedulers import scheduler_facts
from diff_es.search import Journal
from diff_es.timesteps import stage_plan
from run.tiny_run import saved_model, tiny_recipe

DPM = "DPMSolverMultistepScheduler"
SAMPLER = {"steps": 4, "scheduler": DPM, "scheduler_options": {"use_karras_sigmas": True}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.getbasetemp())


def recipe_of(model: Path) -> Recipe:
    return tiny_recipe(model, sampler=SAMPLER, search={"algorithm": "uniform", "allocation": "uniform"})


@pytest.fixture(scope="module")
def pruned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other-scheduler")
    Session(recipe_of(model), folder).pruned()
    return folder / "pruned"


def test_the_session_runs_with_it(model: Path, tmp_path: Path) -> None:
    own = load_pipeline(str(model), device="cpu")
    for session in (Session(recipe_of(model), tmp_path), Session(recipe_of(model), tmp_path, own)):
        assert type(session.pipe.scheduler) is DPMSolverMultistepScheduler
        assert session.pipe.scheduler.config.use_karras_sigmas
        assert session.plan == stage_plan(session.pipe, 3, 4)
        assert session.plan.timesteps != stage_plan(own, 3, 4).timesteps
    assert type(own.scheduler).__name__ == "DDIMScheduler"


def test_the_artefact_records_it_and_images_are_made_with_it(model: Path, pruned: Path) -> None:
    info = Pruned.open(pruned).info
    assert info.scheduler == DPM and info.scheduler_config["use_karras_sigmas"] is True
    pipe = load_base(info, None, "cpu")
    assert type(pipe.scheduler) is DPMSolverMultistepScheduler
    assert scheduler_facts(pipe.scheduler) == info.scheduler_config
    assert stage_plan(pipe, 3, 4) == info.plan


@pytest.mark.parametrize("setting", ["dense", "resident"])
def test_memory_is_measured_with_it(model: Path, pruned: Path, setting: Setting) -> None:
    sampler = Pruned.open(pruned).info.sampler
    pipe = memory._load(MemoryTask(str(model), setting, str(pruned), None, sampler))
    assert type(pipe.scheduler) is DPMSolverMultistepScheduler


def test_loading_into_a_pipeline_with_another_one_says_so(
    pruned: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = Pruned.open(pruned).info
    pipe = load_base(info, None, "cpu")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="diff_es"):
        load(pruned, pipe)
        assert caplog.records == []
        remove_(pipe)
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, solver_order=1)
        load(pruned, pipe)
        assert "solver_order was the default, is 1" in caplog.text
    # The dense pipeline's own sampler visits other timesteps, and none in the noisiest stage.
    with pytest.raises(
        InputError, match=rf"searched for {DPM}.*has DDIMScheduler.*stages \[2\] of 3 would get no step"
    ):
        load(pruned, load_pipeline(str(model), device="cpu"))


def test_going_on_with_other_options_is_refused(model: Path, tmp_path: Path) -> None:
    recipe = recipe_of(model)
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    other = recipe.changed({"sampler": {"scheduler_options": {"solver_order": 1}}})
    with pytest.raises(InputError) as caught:
        compress(other, tmp_path, resume=True)
    assert "sampler.scheduler_options.use_karras_sigmas is True there, None here" in str(caught.value)
    assert "sampler.scheduler_options.solver_order is None there, 1 here" in str(caught.value)


def test_unknown_names_are_found_before_anything_runs(model: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(model, sampler={"scheduler": "DPMSolverMultistpScheduler"})
    with pytest.raises(InputError, match=r"sampler\.scheduler='DPMSolverMultistpScheduler'.*did you mean"):
        compress(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_without_a_scheduler_are_refused(model: Path) -> None:
    with pytest.raises(InputError, match=r"scheduler_options need sampler\.scheduler"):
        tiny_recipe(model, sampler={"scheduler_options": {"solver_order": 1}})


def test_a_search_is_resumed_whatever_the_order_of_its_options(model: Path, pruned: Path, tmp_path: Path) -> None:
    options = {"use_karras_sigmas": True, "solver_order": 3}
    arguments = {"width": 8, "height": 8}
    for turn in (dict, lambda entries: dict(reversed(entries.items()))):
        section = {**SAMPLER, "scheduler_options": turn(options), "arguments": turn(arguments)}
        recipe = tiny_recipe(model, sampler=section, search={"algorithm": "uniform", "allocation": "uniform"})
        session = Session(recipe, tmp_path, stock=pruned.parent)
        with Journal(tmp_path / "journal", session.journal_header("uniform")):
            pass


def test_another_scheduler_in_the_pipeline_is_noticed(model: Path, pruned: Path, tmp_path: Path) -> None:
    """The recipe names none: the pipeline's own may have changed since, and with it every image."""
    recipe = tiny_recipe(model, search={"algorithm": "uniform", "allocation": "uniform"})
    pipe = load_pipeline(str(model), device="cpu")

    def open_both(pipe: object) -> None:
        session = Session(recipe, tmp_path, pipe, stock=pruned.parent)
        bench = Bench(session.pipe, session.sampler, None)
        with pytest.raises(InputError, match=message) if message else nullcontext():
            bench.missing_files(Contestant("dense", ""), session.evaluation_images(), tmp_path / "images")
        with pytest.raises(ArtifactError, match=message) if message else nullcontext():
            Journal(tmp_path / "journal", session.journal_header("uniform")).close()

    message = ""
    open_both(pipe)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    open_both(pipe)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, beta_end=0.03)
    message = r"scheduler_options\.beta_end is None there, 0\.03 here"
    open_both(pipe)


def test_another_device_is_named(model: Path, pruned: Path, tmp_path: Path) -> None:
    session = Session(recipe_of(model), tmp_path, stock=pruned.parent)
    header = session.journal_header("uniform")
    Journal(tmp_path / "journal", replace(header, fitness={**header.fitness, "device": "cuda"})).close()
    with pytest.raises(ArtifactError, match=r"fitness\.device is 'cuda' there, 'cpu' here\. Resume with the settings"):
        Journal(tmp_path / "journal", header)
    bench, images = Bench(session.pipe, session.sampler, None), session.evaluation_images()
    folder = tmp_path / "images"
    bench.sample(Contestant("dense", ""), images, folder, batch_size=4)
    settings = folder / "settings.json"
    settings.write_text(settings.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    with pytest.raises(InputError, match=r"\(device is 'cuda' there, 'cpu' here; see .*choose another folder"):
        bench.missing_files(Contestant("dense", ""), images, folder)
