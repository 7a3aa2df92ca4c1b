"""How ``fashion-classifier`` is trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from diff_es.images import LabelledImages, to_tensor
from diff_es.zoo.classifier import ClassifierConfig, FashionClassifier
from diff_es.zoo.data import full_set
from diff_es.zoo.training import LoopConfig, SaveConfig, fit

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """How ``fashion-classifier`` is made.

    Attributes:
        model: size of the network.
        label_smoothing: of the cross entropy, in [0, 1).
        max_shift: images are moved by up to this many pixels, which stay black at the border.
        bfloat16: train under bfloat16 autocast.
        loop: the learning plan.
    """

    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    label_smoothing: float = 0.05
    max_shift: int = 2
    bfloat16: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=2400,
            batch_size=128,
            learning_rate=3e-3,
            warmup_steps=100,
            decay_steps=1600,
            weight_decay=0.02,
            ema_decay=0.99,
        )
    )


def augment(images: torch.Tensor, max_shift: int, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images and move each by a few pixels.

    Args:
        images: (B, 3, 32, 32) in [-1, 1].
        max_shift: largest shift in pixels along either axis.
        generator: of all choices.

    Returns:
        New images of the same shape; -1 (black) comes in at the borders.
    """
    count, _, height, width = images.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    padded = F.pad(images, (max_shift,) * 4, value=-1.0)
    top, left = torch.randint(2 * max_shift + 1, (2, count, 1, 1), generator=generator)
    rows = top + torch.arange(height).view(1, -1, 1)
    columns = left + torch.arange(width).view(1, 1, -1)
    sample = torch.arange(count).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)


def train_classifier(recipe: ClassifierRecipe, data: Path, save: SaveConfig) -> FashionClassifier:
    """Train the classifier on the training split in ``data``."""
    training = full_set(data, "train")
    labels = torch.from_numpy(training.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.loop.seed)
        model = FashionClassifier(recipe.model)

    def loss(rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG001
        images = augment(to_tensor(training.images[rows.numpy()]), recipe.max_shift, generator)
        images = images.contiguous(memory_format=torch.channels_last)  # 1.5 times as fast on CPU
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16, cache_enabled=False):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels[rows], label_smoothing=recipe.label_smoothing)

    trained = fit(model, loss, len(training), recipe, save)
    assert isinstance(trained, FashionClassifier)
    logger.info("accuracy on the test split: %.4f", accuracy(trained, full_set(data, "t10k")))
    return trained


@torch.no_grad()
def accuracy(model: FashionClassifier, data: LabelledImages) -> float:
    """Share of the images that the classifier gives their own label."""
    logits = torch.cat([model(part) for part in torch.split(to_tensor(data.images), 500)])
    return float((logits.argmax(1) == torch.from_numpy(data.labels)).float().mean())
