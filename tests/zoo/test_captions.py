"""Captions: the way to the class and back, and what the tokenizers and encoders make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diff_es import zoo
from diff_es.errors import InputError
from diff_es.zoo import text
from diff_es.zoo.captions import TEMPLATES, captions_of, captions_of_class, words_of
from diff_es.zoo.conditioning import ALL_CAPTIONS, UNCONDITIONAL_ROW, draw_captions


def test_the_default_captions():
    assert zoo.caption_of(9) == "a photo of an ankle boot"
    assert zoo.caption_of(0) == "a photo of a t-shirt"
    assert tuple(zoo.caption_of(label) for label in range(10)) == zoo.CAPTIONS


@pytest.mark.parametrize("label", range(10))
def test_every_caption_leads_back_to_its_class(label):
    captions = captions_of_class(label)
    assert len(set(captions)) == len(TEMPLATES)
    assert {zoo.label_of(caption) for caption in captions} == {label}
    assert zoo.label_of(f"Please, {zoo.CLASS_NAMES[label].upper()}!") == label


@pytest.mark.parametrize("caption", ["", "a photo", "a bag and a coat", "bags", "ankle", "a boot"])
def test_a_caption_without_one_class_is_refused(caption):
    with pytest.raises(InputError, match="must name one class"):
        zoo.label_of(caption)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_class_that_is_none_is_refused(label):
    with pytest.raises(InputError, match=r"0\.\.9"):
        zoo.caption_of(label)


def test_the_calibration_images_have_captions_in_their_order():
    captions = zoo.calibration_captions()
    assert [zoo.label_of(caption) for caption in captions] == zoo.calibration_set().labels.tolist()
    assert captions_of(np.array([3, 3, 8])) == (zoo.caption_of(3), zoo.caption_of(3), zoo.caption_of(8))


def test_every_word_of_every_caption_has_a_token_of_its_own():
    tokenizer = text.build_tokenizer(start=True, max_length=text.CLIP_TOKENS)
    for caption in ALL_CAPTIONS:
        tokens = tokenizer(caption).input_ids
        assert tokenizer.convert_ids_to_tokens(tokens) == ["<start>", *words_of(caption), "<end>"]
        assert len(tokens) <= text.CLIP_TOKENS
    assert tokenizer("A photo, of: a BAG.").input_ids == tokenizer("a photo of a bag").input_ids
    assert "<unknown>" in tokenizer.convert_ids_to_tokens(tokenizer("a photo of a dinosaur").input_ids)


def test_the_encoders_tell_all_captions_apart():
    tokenizer = text.build_tokenizer(start=True, max_length=text.CLIP_TOKENS)
    ids = tokenizer(list(ALL_CAPTIONS), padding="max_length", return_tensors="pt").input_ids
    for pooled in (
        text.build_clip(64, seed=3)(ids).pooler_output,
        text.build_projected_clip(32, 64, seed=2)(ids).text_embeds,
    ):
        distances = torch.cdist(pooled, pooled) + 1e9 * torch.eye(len(pooled))
        assert float(distances.min()) > 0.3


def test_an_encoded_word_does_not_depend_on_the_padding_of_t5():
    tokenizer, encoder = text.build_tokenizer(start=False, max_length=512), text.build_t5(64, seed=4)
    short, long = (
        encoder(tokenizer("a bag", padding="max_length", max_length=length, return_tensors="pt").input_ids)[0]
        for length in (5, 300)
    )
    assert torch.equal(long[:, :4], short[:, :4])
    assert torch.equal(long[:, 3:], long[:, 3:4].expand(-1, 297, -1))


def test_captions_are_drawn_from_the_class_and_dropped_once_per_sample():
    labels = torch.arange(5000) % 10
    rows = draw_captions(labels, 0.1, torch.Generator().manual_seed(0))
    dropped = rows == UNCONDITIONAL_ROW
    assert 0.08 < float(dropped.float().mean()) < 0.12
    assert ALL_CAPTIONS[UNCONDITIONAL_ROW] == ""
    named = torch.tensor([zoo.label_of(ALL_CAPTIONS[row]) for row in rows[~dropped].tolist()])
    assert torch.equal(named, labels[~dropped])
    assert len(set(rows.tolist())) == len(ALL_CAPTIONS)
