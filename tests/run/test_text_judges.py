"""The shipped classifier looks at images of text-to-image models: what it can say depends on the prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diff_es.errors import InputError
from diff_es.evaluation.protocols import protocols
from diff_es.run import Session
from diff_es.run.judge import JudgeConfig, judge
from diff_es.run.judges import known_judge
from diff_es.run.measure import Bench, Contestant, evaluate
from run.text_runs import text_recipe, write_prompts
from tiny_pipelines import tiny_sdxl
from tiny_protocol import TINY


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 32 × 32 pixels, which the shipped classifier looks at."""
    base = tmp_path_factory.mktemp("large")
    tiny_sdxl(base / "tokenizer", side=32).save_pretrained(base / "model")
    return base / "model"


@pytest.mark.parametrize("prompts", ["zoo:captions", "own"])
def test_label_agreement_needs_prompts_that_name_a_class(large: Path, tmp_path: Path, prompts: str) -> None:
    name = prompts if prompts != "own" else write_prompts(tmp_path)
    session = Session(text_recipe(large, name, "nowhere"), tmp_path / "run")
    bench = Bench(session.pipe, session.sampler, known_judge("zoo:fashion-sdxl"))
    measured = evaluate(session, bench, (Contestant("dense", ""),))
    known = prompts != "own"
    assert (measured.dense.value("label_agreement") is not None) == known
    assert ("Label agreement is" in measured.protocol.text) == known
    assert measured.dense.value("classifier_frechet") is not None


def test_the_protocol_of_the_shipped_models_asks_for_captions(large: Path, tmp_path: Path) -> None:
    config = JudgeConfig("fashion", steps=2, guidance_scale=1.0, images=12, device="cpu")
    record = judge(str(large), tmp_path / "quality", config)
    assert {own.metric for own in record.measurements} >= {"label_agreement", "classifier_frechet"}
    settings = json.loads((tmp_path / "quality" / "images" / "settings.json").read_text())
    assert settings["requests"]["prompts"][9:11] == ["a photo of an ankle boot", "a photo of a t-shirt"]
    assert settings["requests"]["labels"][9:11] == [9, 0]
    assert judge(str(large), tmp_path / "quality", config) == record


def test_a_protocol_without_captions_refuses_a_text_model(large: Path, tmp_path: Path) -> None:
    protocols.register("tiny, of classes", replace(TINY, name="tiny, of classes", classes=10))
    config = JudgeConfig("tiny, of classes", steps=2, guidance_scale=1.0, device="cpu")
    with pytest.raises(InputError, match="needs a class-conditional model; StableDiffusionXLPipeline is none"):
        judge(str(large), tmp_path / "quality", config)
    assert not (tmp_path / "quality").exists()
