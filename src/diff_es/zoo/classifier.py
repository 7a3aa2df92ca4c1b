"""``fashion-classifier``: a small CNN that judges generated images. It is for evaluation only, never for search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diff_es.artifacts import read_record, write_record
from diff_es.errors import ArtifactError, InputError
from diff_es.zoo.data import CLASS_NAMES

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS_NAME: Final = "model.safetensors"
CONFIG_NAME: Final = "config.json"


@dataclass(frozen=True)
class ClassifierConfig:
    """Size of the classifier.

    Attributes:
        widths: channels at 32 x 32, 16 x 16 and 8 x 8; the last is the length of the feature vector.
    """

    widths: tuple[int, int, int] = (32, 64, 128)

    def __post_init__(self) -> None:
        if min(self.widths) < 1:
            raise InputError(f"widths: must be positive, got {self.widths}")


class FashionClassifier(nn.Module):
    """Six 3 x 3 convolutions at three sizes; their pooled output is the feature vector, a linear map the logits."""

    def __init__(self, config: ClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = config or ClassifierConfig()
        first, second, third = self.config.widths
        self.body = nn.Sequential(
            *_convolution(3, first),
            *_convolution(first, first),
            nn.MaxPool2d(2),
            *_convolution(first, second),
            *_convolution(second, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            *_convolution(third, third),
        )
        self.head = nn.Linear(third, len(CLASS_NAMES))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, 32, 32) in [-1, 1] to feature vectors (N, 128), all non-negative."""
        pooled: torch.Tensor = self.body(images).mean(dim=(2, 3))
        return pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, 32, 32) in [-1, 1] to logits (N, 10)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def save_classifier(model: FashionClassifier, folder: Path) -> None:
    """Write weights and configuration into an existing folder."""
    save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / WEIGHTS_NAME)
    write_record(folder / CONFIG_NAME, model.config)


def read_classifier(folder: Path) -> FashionClassifier:
    """Read a classifier written by :func:`save_classifier`, in eval mode.

    Raises:
        ArtifactError: a file is missing, damaged or of another model.
    """
    model = FashionClassifier(read_record(folder / CONFIG_NAME, ClassifierConfig))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{folder}: the weights do not fit {asdict(model.config)} ({error})") from error
    return model.eval()
