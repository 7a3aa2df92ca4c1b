"""Rectified flow with FLUX: velocity, losses and Euler steps.

``FluxPipeline`` pads a prompt to ``max_sequence_length`` tokens and masks none of them, so that a model trained at one
length would be thrown off by another. All padding tokens are equal here (T5 encodes each token on its own, and FLUX
gives text tokens no position), and n equal keys act in a softmax like one whose logit is larger by log n. So every
caption carries one padding token with a bias of log n: exactly what the pipeline computes at any length, at the cost of
the shortest one. Training draws the length anew for each sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from diff_es.zoo.conditioning import UNCONDITIONAL_ROW, CaptionTable, draw_captions
from diff_es.zoo.flux import LONGEST_PROMPT, positions

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

SHORTEST_PROMPT: Final = 16


@dataclass(frozen=True)
class PaddedCaptions:
    """Encoded captions for FLUX.

    Attributes:
        table: the encoded captions, each with at least one padding token at its end.
        lengths: (captions,) tokens without padding.
    """

    table: CaptionTable
    lengths: torch.Tensor

    def bias(self, rows: torch.Tensor, prompt_lengths: torch.Tensor) -> torch.Tensor:
        """What is added to the attention logits so that the captions act like longer, padded ones.

        Args:
            rows: (B,) captions.
            prompt_lengths: (B,) tokens of each caption with its padding.

        Returns:
            (B, 1, 1, T + 16): by key, first the text and then the image tokens.
        """
        lengths = self.lengths[rows].unsqueeze(1)
        place = torch.arange(self.table.tokens.shape[1]).unsqueeze(0)
        padding = torch.log(prompt_lengths.unsqueeze(1).float() - lengths)
        text = torch.where(place < lengths, 0.0, torch.where(place == lengths, padding, -math.inf))
        return torch.cat([text, text.new_zeros(len(rows), len(positions()))], dim=1)[:, None, None]


class Velocity:
    """The transformer as a function of tokens, time and caption."""

    def __init__(self, transformer: FluxTransformer2DModel, captions: PaddedCaptions, bfloat16: bool) -> None:
        """Keep the parts; ``bfloat16`` asks for autocast."""
        self._transformer, self._captions, self._bfloat16 = transformer, captions, bfloat16
        self._image_ids = positions()
        self._text_ids = torch.zeros(captions.table.tokens.shape[1], 3)

    def __call__(
        self, tokens: torch.Tensor, times: torch.Tensor, rows: torch.Tensor, prompt_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Predict noise minus image.

        Args:
            tokens: (B, 16, 16) packed latents between image (time 0) and noise (time 1).
            times: (B,) in [0, 1].
            rows: (B,) captions.
            prompt_lengths: (B,) tokens of each caption with its padding.

        Returns:
            (B, 16, 16) float32.
        """
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16, cache_enabled=False):
            predicted: torch.Tensor = self._transformer(
                hidden_states=tokens,
                encoder_hidden_states=self._captions.table.tokens[rows],
                pooled_projections=self._captions.table.pooled[rows],
                timestep=times,
                img_ids=self._image_ids,
                txt_ids=self._text_ids,
                joint_attention_kwargs={"attention_mask": self._captions.bias(rows, prompt_lengths)},
            ).sample
        return predicted.float()


def draw_lengths(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw (count,) prompt lengths between 16 and 512 tokens, evenly on a logarithmic scale."""
    span = math.log(LONGEST_PROMPT / SHORTEST_PROMPT)
    return torch.exp(torch.rand(count, generator=generator) * span).mul(SHORTEST_PROMPT).round()


@dataclass(frozen=True)
class Lines:
    """Points on straight lines between images and noise.

    Attributes:
        images: (B, 16, 16) packed latents, where time is 0.
        noise: (B, 16, 16), where time is 1.
        times: (B,) in [0, 1].
        captions: (B,) rows of the captions.
    """

    images: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    captions: torch.Tensor

    def points(self) -> torch.Tensor:
        """(B, 16, 16), ``(1 - time) * image + time * noise``."""
        return torch.lerp(self.images, self.noise, self.times.view(-1, 1, 1))


def velocity_error(velocity: Velocity, lines: Lines, generator: torch.Generator) -> torch.Tensor:
    """Mean squared error of the velocity, which is ``noise - image`` all along; ``generator`` draws prompt lengths."""
    lengths = draw_lengths(len(lines.captions), generator)
    predicted = velocity(lines.points(), lines.times, lines.captions, lengths)
    return torch.mean((predicted - (lines.noise - lines.images)).square())


class TeacherLoss:
    """Rectified flow on images, each with a fresh noise, a fresh time and a fresh caption."""

    def __init__(self, velocity: Velocity, images: torch.Tensor, labels: torch.Tensor, caption_dropout: float) -> None:
        """Keep the data: packed latents (N, 16, 16) of unit variance and their classes (N,)."""
        self._velocity, self._images, self._labels = velocity, images, labels
        self._dropout = caption_dropout

    def __call__(self, rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """Return the loss of the images ``rows`` (B,). Times are logit-normal: the middle of the way is the hardest."""
        images = self._images[rows]
        noise = torch.randn(images.shape, generator=generator)
        times = torch.sigmoid(torch.randn(len(rows), generator=generator))
        captions = draw_captions(self._labels[rows], self._dropout, generator)
        return velocity_error(self._velocity, Lines(images, noise, times, captions), generator)


@torch.no_grad()
def sample(
    velocity: Velocity, noise: torch.Tensor, rows: torch.Tensor, *, steps: int, guidance_scale: float
) -> torch.Tensor:
    """Follow the guided velocity from noise to images in evenly spaced Euler steps.

    Args:
        velocity: the model.
        noise: (B, 16, 16).
        rows: (B,) captions.
        steps: Euler steps.
        guidance_scale: 1 for none.

    Returns:
        (B, 16, 16).
    """
    count = len(rows)
    both = torch.cat([rows, torch.full_like(rows, UNCONDITIONAL_ROW)])
    lengths = torch.full((2 * count,), 4.0 * SHORTEST_PROMPT)
    tokens = noise
    for step in range(steps):
        times = torch.full((2 * count,), 1.0 - step / steps)
        conditional, unconditional = velocity(torch.cat([tokens, tokens]), times, both, lengths).chunk(2)
        tokens = tokens - (unconditional + guidance_scale * (conditional - unconditional)) / steps
    return tokens
