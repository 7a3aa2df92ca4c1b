"""Encoded captions, and which of them a training sample is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from diff_es.zoo.captions import TEMPLATES, UNCONDITIONAL, captions_of_class
from diff_es.zoo.data import CLASS_NAMES

ALL_CAPTIONS: Final = (
    *(caption for label in range(len(CLASS_NAMES)) for caption in captions_of_class(label)),
    UNCONDITIONAL,
)
"""Every training caption: the templates of class 0, those of class 1, …, and last the empty one."""
UNCONDITIONAL_ROW: Final = len(ALL_CAPTIONS) - 1


@dataclass(frozen=True)
class CaptionTable:
    """What the text encoders make of :data:`ALL_CAPTIONS`, in their order.

    Attributes:
        tokens: (captions, T, D) one vector per token.
        pooled: (captions, P) one vector per caption.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor


def draw_captions(labels: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Choose a caption for each sample: any of its class's, or the empty one.

    Args:
        labels: (B,) classes.
        dropout: share of the samples that get the empty caption.
        generator: of all choices.

    Returns:
        (B,) rows of :data:`ALL_CAPTIONS`.
    """
    templates = torch.randint(len(TEMPLATES), labels.shape, generator=generator)
    dropped = torch.rand(labels.shape, generator=generator) < dropout
    return (labels * len(TEMPLATES) + templates).masked_fill(dropped, UNCONDITIONAL_ROW)
