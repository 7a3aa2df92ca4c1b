"""CLIP score with a tiny, randomly initialised CLIPModel: the same cosines as the model's towers give in float64."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import CLIPModel

from diff_es.artifacts import sha256
from diff_es.errors import InputError
from diff_es.evaluation.clip import ClipScorer, _embedding
from text_models import letter_tokenizer, letter_tokens, save_tiny_clip

PROMPTS = ("a dog", "two red cats on a mat", "x", "a dog", "nothing at all")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tiny-clip"
    save_tiny_clip(path)
    return path


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.load(folder)


def images(count: int = len(PROMPTS), size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def ids_of(prompt: str) -> list[int]:
    """The letters of a prompt, tokenised by hand."""
    known = letter_tokens()
    letters = [known[f"{c}</w>" if i == len(word) - 1 else c] for word in prompt.split() for i, c in enumerate(word)]
    return [known["<|startoftext|>"], *letters, known["<|endoftext|>"]]


def cosines_in_float64(folder: Path, pixels: Tensor, prompts: tuple[str, ...]) -> Tensor:
    """From the two towers and projections of the saved model, one pair at a time and without padding."""
    model = CLIPModel.from_pretrained(folder).double().eval()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    found = []
    for image, prompt in zip((pixels.double() * 255).round() / 255, prompts, strict=True):
        with torch.no_grad():
            seen = model.visual_projection(model.vision_model(((image - mean) / std)[None]).pooler_output)[0]
            states = model.text_model(input_ids=torch.tensor([ids_of(prompt)[:77]])).last_hidden_state
            read = model.text_projection(states[0, -1])
        found.append(float(seen @ read / (seen.norm() * read.norm())))
    return torch.tensor(found)


def test_scores_with_random_weights_are_the_cosines_of_the_towers(scorer: ClipScorer, folder: Path) -> None:
    expected = cosines_in_float64(folder, images(), PROMPTS)
    found = scorer.score_batches([images()], PROMPTS)
    assert found.shape == (5,) and found.dtype == torch.float32 and found.device.type == "cpu"
    torch.testing.assert_close(found, expected.clamp(min=0), rtol=1e-4, atol=1e-6)
    assert expected.std() > 0.01
    assert (found > 0).any(), "all cosines are negative: choose another seed"


def test_negative_cosines_are_reported_as_zero(tmp_path: Path) -> None:
    """With the sign of the projection turned, every cosine has the other sign."""
    model = save_tiny_clip(tmp_path / "turned")
    model.visual_projection.weight.data.neg_()
    model.save_pretrained(tmp_path / "turned")
    expected = cosines_in_float64(tmp_path / "turned", images(), PROMPTS)
    assert (expected < 0).any()
    found = ClipScorer.load(tmp_path / "turned").score_batches([images()], PROMPTS)
    torch.testing.assert_close(found, expected.clamp(min=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_score_does_not_depend_on_its_batch_with_random_weights(scorer: ClipScorer, batch_size: int) -> None:
    whole = scorer.score_batches([images()], PROMPTS)
    torch.testing.assert_close(scorer.score_batches(images().split(batch_size), PROMPTS), whole, rtol=1e-4, atol=1e-6)
    batches = iter(images().split(batch_size))
    torch.testing.assert_close(scorer.score_batches(batches, PROMPTS), whole, rtol=1e-4, atol=1e-6)


def test_long_prompts_are_cut_with_one_warning(
    scorer: ClipScorer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """75 letters and the two marks fit; one more does not, and a cut prompt still ends with the end mark."""
    fits, long, longer = "a" * 75, "a" * 74 + "bc", "a" * 74 + "bd" + " more words" * 20
    with caplog.at_level(logging.WARNING):
        found = scorer.score_batches(images(4).split(1), (fits, long, longer, "a dog"))
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 prompts have more than 77 tokens; CLIP reads the beginning only."
    ]
    caplog.clear()
    known = letter_tokens()
    cut = torch.tensor([[*ids_of(long)[:76], known["<|endoftext|>"]]])
    with torch.no_grad():
        read = _embedding(scorer.model.get_text_features(input_ids=cut))
        pixels = scorer.processor(images=list((images(4)[1:2] * 255).round().byte()), return_tensors="pt")
        seen = _embedding(scorer.model.get_image_features(**pixels))
    expected = torch.cosine_similarity(seen, read)[0].clamp(min=0)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-6)
    with caplog.at_level(logging.WARNING):
        scorer.score_batches([images(1)], (fits,))
    assert not caplog.records


def test_images_of_any_size_are_resized_by_the_models_processor(scorer: ClipScorer) -> None:
    """A flat image stays the same image at every size and shape."""
    flat = [torch.full((1, 3, *size), 0.5) for size in ((16, 16), (64, 64), (40, 100))]
    first, *others = (float(scorer.score_batches([image], PROMPTS[:1])) for image in flat)
    assert others == pytest.approx([first, first], rel=1e-4)


def test_an_image_that_is_not_finite_scores_nan(scorer: ClipScorer) -> None:
    broken = images()
    broken[1, 0, 3, 4] = math.nan
    broken[3, 2] = math.inf
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        scorer.score_batches([broken], PROMPTS)
    broken[3, 2] = math.nan
    found, whole = scorer.score_batches([broken], PROMPTS), scorer.score_batches([images()], PROMPTS)
    assert found.isnan().tolist() == [False, True, False, True, False]
    torch.testing.assert_close(found[[0, 2, 4]], whole[[0, 2, 4]], rtol=1e-4, atol=1e-6)


def test_both_return_types_of_transformers_are_read() -> None:
    """A tensor up to transformers 4, an output object from 5 on."""
    embedding = torch.ones(2, 3)
    assert _embedding(embedding) is embedding
    assert _embedding(SimpleNamespace(pooler_output=embedding)) is embedding


def test_the_scorer_knows_version_and_weights(scorer: ClipScorer, folder: Path) -> None:
    assert scorer.weights_sha256 == sha256(folder / "model.safetensors")
    assert scorer.version.startswith("transformers ") and scorer.version.endswith(", tiny-clip")
    assert not scorer.model.training


@pytest.mark.parametrize(
    ("count", "prompts", "message"),
    [
        (2, PROMPTS[:3], "3 prompts but 2 images"),
        (3, PROMPTS[:2], "2 prompts but more images"),
        (1, (), "prompts is empty"),
    ],
)
def test_one_prompt_per_image(scorer: ClipScorer, count: int, prompts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scorer.score_batches(images(count).split(1), prompts)


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", "no/such/folder", "nowhere"])
def test_a_missing_model_offline_is_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test session is offline (HF_HUB_OFFLINE=1 in conftest.py)."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"not in the hub cache .*could not be downloaded") as caught:
        ClipScorer.load(name)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _without_tower(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual_projection")}
    safetensors.torch.save_file(kept, folder / "model.safetensors", {"format": "pt"})


def _other_shape(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["projection_dim"] = 4
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_tokenizer(folder: Path) -> None:
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / file).unlink()


def _without_processor(folder: Path) -> None:
    for file in folder.glob("*processor*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_weights, r"has no model\.safetensors"),
        (_cut_off, "cannot be loaded as a CLIP model"),
        (_without_tower, r"its weights lack 1, such as visual_projection\.weight"),
        (_other_shape, "cannot be loaded as a CLIP model|its weights lack 2"),
        (_without_config, r"has no config\.json"),
        (_without_tokenizer, r"its tokeniser has .* words and its model 190"),
        (_without_processor, "cannot be loaded as a CLIP model"),
    ],
)
def test_an_incomplete_folder_is_one_clear_line(folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(InputError, match=message) as caught:
        ClipScorer.load(copy)
    assert "\n" not in str(caught.value)


def test_the_tokeniser_of_the_tests_reads_letters(tmp_path: Path) -> None:
    assert letter_tokenizer(tmp_path)("A dog!").input_ids == ids_of("a dog !")
