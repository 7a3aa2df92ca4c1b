"""Device memory of a run: predicted before it starts, said, kept to, and never a reason for another result."""

from __future__ import annotations

import gc
import logging
from pathlib import Path

import pytest
from rich.console import Console

from diff_es.errors import InputError
from diff_es.pruning import BankConfig
from diff_es.routing import Router
from diff_es.routing.sizes import weight_bytes
from diff_es.run import Session, compress
from diff_es.run.estimate import estimate
from diff_es.run.measure import Bench
from diff_es.run.planned import PlannedBank
from diff_es.run.workers import SessionWorker
from diff_es.search import Candidate, Trial
from diff_es.views import estimate_json, estimate_table
from families.family import Family
from families.registry import FAMILIES
from run.tiny_run import Finished, canonical_journal, tiny_recipe
from support import METHODS, PLAN, mixed_levels, tiny_bank, tiny_pipe

LEVELS = {"levels": 7, "width_multiple": 8}


def living_routers() -> set[int]:
    return {id(item) for item in gc.get_objects() if type(item) is Router}


def tight(finished: Finished, folder: Path) -> Session:
    """A session whose search fits without its stages' weights, and not with those of all stages."""
    needed = Session(finished.recipe, folder, stock=finished.folder).planned_memory.weight_bytes
    return Session(finished.recipe, folder, stock=finished.folder, memory_limit=needed["resident"])


@pytest.mark.parametrize("method", METHODS)
def test_the_sizes_of_a_bank_are_known_before_it_is_made(method: str) -> None:
    pipe = tiny_pipe("geglu")
    name, _, intercept = method.partition("+")
    bank = tiny_bank(pipe, method)
    planned = PlannedBank(pipe.transformer, BankConfig(name, bank.num_levels, intercept=bool(intercept)), PLAN)
    assert (planned.layers, planned.depth, planned.fingerprint) == (bank.layers, bank.depth, bank.fingerprint)
    for levels in (mixed_levels(bank), (0, 1, 2), (4, 4, 4)):
        schedule = bank.uniform_allocation().resolve(levels)
        assert weight_bytes(pipe.transformer, planned, schedule) == weight_bytes(pipe.transformer, bank, schedule)


def test_rounded_widths_take_more(finished: Finished, tmp_path: Path) -> None:
    """Levels that keep 27, 18 and 9 of 64 channels keep 32, 24 and 16 in multiples of 8."""
    recipes = (tiny_recipe(finished.model, pruning=pruning) for pruning in ({"levels": 7}, LEVELS))
    plain, rounded = (Session(recipe, tmp_path).planned_memory.weight_bytes["resident"] for recipe in recipes)
    assert rounded > plain


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_of_a_layer_keeps_its_own_share(family: Family) -> None:
    planned = PlannedBank(family.model(), BankConfig("wanda", 2), PLAN)
    for layer in planned._layers.values():
        kept = layer.split(planned.thin(0, layer, 1).kept)
        assert [len(own) for own in kept] == [own.count - own.removed(2)[1] for own in layer.families]


def test_a_search_that_gathers_finds_the_same(finished: Finished, tmp_path: Path) -> None:
    session = tight(finished, tmp_path)
    fitness = session.fitness("sensitivity")
    assert (session.planned_memory.mode, fitness._router.mode) == ("gather", "gather")
    assert session.search("sensitivity") == finished.result.search
    journals = (folder / "search" / "sensitivity" / "journal.jsonl" for folder in (tmp_path, finished.folder))
    first, second = map(canonical_journal, journals)
    assert first == second


def test_what_is_kept_for_later_candidates_fits_as_well(finished: Finished, tmp_path: Path) -> None:
    session = tight(finished, tmp_path)
    plan = session.planned_memory
    assert plan.limit is not None
    assert session.fitness("uniform")._store.limit == (plan.limit - plan.weight_bytes["gather"]) // 4
    assert Session(finished.recipe, tmp_path, stock=finished.folder).fitness("uniform")._store.limit == 2 * 2**30


def test_a_search_that_fits_in_no_mode_is_refused_before_anything_is_made(finished: Finished, tmp_path: Path) -> None:
    session = Session(finished.recipe, tmp_path / "run", memory_limit=1000)
    with pytest.raises(InputError, match=r"1000 bytes.*the weights take at least"):
        session.check()
    with pytest.raises(InputError, match=r"1000 bytes"):
        estimate(session)
    assert not (tmp_path / "run").exists()


def test_mode_and_memory_are_said_before_the_run(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predicted = estimate(tight(finished, tmp_path / "never-made"))
    assert estimate_json(predicted)["search_memory"]["mode"] == "gather"
    console = Console(width=200)
    with console.capture() as captured:
        console.print(estimate_table(predicted))
    assert "gather: its weights take up to 0.00 of 0.00 GiB; resident would take" in captured.get()
    folder = finished.copy(tmp_path / "run")
    with caplog.at_level(logging.INFO, "diff_es"):
        compress(finished.recipe, folder, resume=True)
        assert "Memory mode" not in caplog.text, "nothing is left to search"
        (folder / "search" / "sensitivity" / "result.json").unlink()
        compress(finished.recipe, folder, resume=True)
    assert "as predicted: resident: its weights take up to 0.00 GiB, and nothing limits them." in caplog.text
    assert "Budget" not in caplog.text, "it is met exactly"


def test_a_budget_that_levels_do_not_meet_is_said_before_the_run(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = {"sparsity": 0.3, "generations": 0, "allocation": "uniform"}
    coarse = finished.recipe.changed({"stages": 1, "search": search, "evaluation": {"compare": []}})
    with caplog.at_level(logging.INFO, "diff_es"):
        result = compress(coarse, tmp_path / "run")
    assert result.search.levels == (2,)
    assert "search.sparsity=0.3 is rounded up to whole levels: schedules of 1 stages and 4 levels" in caplog.text
    assert "remove at least 0.5 of the groups" in caplog.text


def test_the_next_search_of_a_worker_finds_the_weights_of_the_last_one_gone(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its mode would be chosen by what both together leave free."""
    session = Session(finished.recipe, tmp_path, stock=finished.folder)
    worker = SessionWorker(session, Bench(session.pipe, session.sampler, None))
    before, alive = living_routers(), []
    make = session.fitness

    def fitness(allocation: str) -> object:
        alive.append(len(living_routers() - before))
        return make(allocation)

    monkeypatch.setattr(session, "fitness", fitness)
    trial = Trial(Candidate(session.space.uniform(), 0, 0))
    for allocation in ("sensitivity", "uniform", "uniform"):
        worker.score(allocation, trial)
    assert alive == [0, 0]


def test_the_estimate_samples_no_more_images_than_there_are_probes(finished: Finished, tmp_path: Path) -> None:
    session = Session(tiny_recipe(finished.model, search={"probes": 2, "batch_size": 16}), tmp_path)
    rows = []
    session.pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    estimate(session)
    assert set(rows) == {2 * 2}, "two images, each with guidance"
