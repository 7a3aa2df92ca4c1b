"""Tokenizers and text encoders of the zoo: real classes of transformers, tiny, with fixed random weights.

Fifty captions need no training of the encoders: random features tell all of them apart, and whatever reads them (cross
attention, joint attention, the pooled projection) is trained. Because the encoders are fixed, every caption is encoded
once. They are stored in float32, because transformers loads them as they are stored, and diffusers the rest as float32.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from diff_es.zoo.captions import captions_of_class, words_of
from diff_es.zoo.data import CLASS_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

M = TypeVar("M", bound=nn.Module)

CLIP_TOKENS: Final = 12
"""Tokens of a caption for CLIP, padding included."""
_FACTOR: Final = 2.0
"""Scale of CLIP's random weights against its own start: at 1, the class hardly reaches the end token that is pooled."""
_SPECIAL: Final = ("<pad>", "<start>", "<unknown>", "<end>")
_PAD, _START, _UNKNOWN, _END = range(4)  # CLIPTextModel treats an end token of 2 in a special way


def vocabulary() -> dict[str, int]:
    """Every word of the training captions, with its token; special tokens first."""
    words = {word for label in range(len(CLASS_NAMES)) for text in captions_of_class(label) for word in words_of(text)}
    return {token: number for number, token in enumerate((*_SPECIAL, *sorted(words)))}


def build_tokenizer(*, start: bool, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, which needs no download.

    Args:
        start: put a start token before the words, as CLIP does and T5 does not; the end token is always there.
        max_length: longest input in tokens.
    """
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=_SPECIAL[_UNKNOWN]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\w-]+"), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIAL[_START]} $A {_SPECIAL[_END]}" if start else f"$A {_SPECIAL[_END]}",
        special_tokens=[(_SPECIAL[token], token) for token in (_START, _END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_SPECIAL[_PAD],
        bos_token=_SPECIAL[_START],
        unk_token=_SPECIAL[_UNKNOWN],
        eos_token=_SPECIAL[_END],
        model_max_length=max_length,
    )


def build_clip(width: int, seed: int) -> CLIPTextModel:
    """A CLIP text encoder of two layers.

    Args:
        width: channels of its hidden states and of the pooled output.
        seed: of its weights.
    """
    with _seeded(seed):
        return _fixed(CLIPTextModel(_clip_config(width)))


def build_projected_clip(width: int, projection: int, seed: int) -> CLIPTextModelWithProjection:
    """The same with a linear map of the pooled output to ``projection`` channels."""
    with _seeded(seed):
        return _fixed(CLIPTextModelWithProjection(_clip_config(width, projection)))


def build_t5(width: int, seed: int) -> T5EncoderModel:
    """A T5 encoder of one layer whose attention adds nothing: every token is encoded on its own.

    ``FluxPipeline`` pads to ``max_sequence_length`` and masks nothing. With attention, an encoded word would depend on
    the amount of padding after it.
    """
    config = T5Config(
        d_model=width,
        d_kv=width // 8,
        d_ff=2 * width,
        num_layers=1,
        num_heads=8,
        vocab_size=len(vocabulary()),
        pad_token_id=_PAD,
        eos_token_id=_END,
    )
    with _seeded(seed):
        model = T5EncoderModel(config)
        nn.init.normal_(model.shared.weight)
        nn.init.zeros_(model.encoder.block[0].layer[0].SelfAttention.o.weight)
        return _fixed(model)


def _clip_config(width: int, projection: int = 64) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_attention_heads=8,
        num_hidden_layers=2,
        vocab_size=len(vocabulary()),
        max_position_embeddings=CLIP_TOKENS,
        pad_token_id=_PAD,
        bos_token_id=_START,
        eos_token_id=_END,
        initializer_factor=_FACTOR,
    )


@torch.no_grad()
def _fixed(model: M) -> M:
    for module in model.modules():
        # At the scale of a trained CLIP's start (0.02) words would hardly differ in the hidden states that SDXL reads.
        if isinstance(module, CLIPTextEmbeddings):
            nn.init.normal_(module.token_embedding.weight)
            nn.init.normal_(module.position_embedding.weight, std=0.5)
    return model.eval().requires_grad_(False)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
