"""Which prompts and seeds the parts of a run get."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.recipe import Recipe
from diff_es.run.requests import CAPTIONS, PromptList, Purpose, first_seed, read_prompt_list
from diff_es.run.session import Session
from diff_es.sampling import MAX_SEED, PromptRequests
from run.text_runs import PROMPTS, text_recipe, write_prompts
from run.tiny_run import tiny_recipe
from support import tiny_pipe
from tiny_pipelines import tiny_sdxl


def numbered(total: int) -> PromptList:
    return PromptList(tuple(map(str, range(total))), (), "prompts.txt")


@given(st.integers(1, 60), st.integers(1, 20), st.integers(4, 40))
def test_prompts_are_shared_out(total: int, probes: int, images: int) -> None:
    prompts = numbered(total)
    if total < probes:
        with pytest.raises(InputError, match=f"holds {total} prompts for search.probes={probes}: .* to {total}"):
            prompts.part(Purpose.SEARCH_PROBES, probes, images)
        return
    search, evaluation, calibration = (prompts.part(purpose, probes, images).prompts for purpose in Purpose)
    assert search == prompts.prompts[:probes]
    if total >= probes + images:
        assert evaluation == prompts.prompts[-images:], "the same for every number of probes"
    if total - probes >= min(images, probes):
        assert not set(evaluation) & {*search, *calibration}
        assert {*evaluation, *calibration} == set(prompts.prompts)
        assert 0 < len(evaluation) <= images
    else:
        assert evaluation == calibration == prompts.prompts


def test_captions_of_classes_are_gone_round_with_their_labels() -> None:
    """Ten captions for 16 probes are no fault: they are what class labels are elsewhere."""
    prompts = read_prompt_list(CAPTIONS)
    assert prompts.prompts[9] == "a photo of an ankle boot" and prompts.labels == tuple(range(10))
    assert all(prompts.part(purpose, 16, 256) == prompts for purpose in Purpose)


def test_a_session_of_a_text_model(tmp_path: Path) -> None:
    recipe = text_recipe("x", write_prompts(tmp_path), "nowhere")
    session = Session(recipe, tmp_path / "run", tiny_sdxl(tmp_path))
    probes, images = session.search_probes(), session.evaluation_images()
    runs = session.requests(Purpose.CALIBRATION_RUNS, 6)
    assert isinstance(probes, PromptRequests) and isinstance(images, PromptRequests)
    assert isinstance(runs, PromptRequests)
    assert probes.prompts == PROMPTS[:2] and images.prompts == PROMPTS[-4:]
    assert runs.prompts == (*PROMPTS[:4], *PROMPTS[:2]), "round the rest, with new seeds"
    seeds = [probes.seeds, images.seeds, runs.seeds]
    assert len({seed for own in seeds for seed in own}) == sum(map(len, seeds))
    assert [own[0] for own in seeds] == [first_seed(0, purpose) for purpose in Purpose]
    more = session.requests(Purpose.EVALUATION_IMAGES, 9)
    assert isinstance(more, PromptRequests)
    assert more.prompts[4] == more.prompts[0] and len(set(more.seeds)) == 9


def test_a_session_with_the_captions_of_the_zoo(tmp_path: Path) -> None:
    session = Session(text_recipe("x", CAPTIONS, "nowhere"), tmp_path / "run", tiny_sdxl(tmp_path))
    images = session.evaluation_images()
    assert images.labels == (0, 1, 2, 3) and images.arguments()["prompt"][1] == "a photo of a trouser"


def test_a_session_of_a_class_conditional_model_reads_no_prompts(tmp_path: Path) -> None:
    session = Session(tiny_recipe("x"), tmp_path, tiny_pipe())
    assert session.prompts is None and session.search_probes().labels == (0, 1)
    with pytest.raises(InputError, match=r"prompts=a\.txt, but DiTPipeline makes images from class labels; remove it"):
        _ = Session(tiny_recipe("x", prompts="a.txt"), tmp_path, tiny_pipe()).prompts


def test_the_largest_seed_of_a_recipe_has_seeds_for_its_images() -> None:
    largest = Recipe.parse({"model": "m", "seed": 2**32 - 1, "search": {"seed": 2**32 - 1}}).seed
    assert first_seed(largest, max(Purpose)) + 1_000_000 < MAX_SEED
    for section in ({"seed": 2**32}, {"search": {"seed": 2**32}}):
        with pytest.raises(InputError, match="less than or equal to 4294967295"):
            Recipe.parse({"model": "m", **section})
