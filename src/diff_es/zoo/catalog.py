"""What the zoo ships, and how to load it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import torch
from diffusers import DiTPipeline
from diffusers.utils import logging

from diff_es.errors import InputError
from diff_es.registry import Registry
from diff_es.zoo.classifier import read_classifier
from diff_es.zoo.data import CLASS_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diff_es.zoo.classifier import FashionClassifier

_MODELS: Final = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ZooModel:
    """One shipped model.

    Attributes:
        kind: what it is.
        folder: where it lies, relative to the folder of shipped models.
    """

    kind: Literal["autoencoder", "pipeline", "classifier"]
    folder: str


_CATALOG: Final[Registry[ZooModel]] = Registry("zoo model")
# The autoencoder is shipped once, as the part of the pipeline that it is.
_CATALOG.register("fashion-vae", ZooModel("autoencoder", "fashion-dit/vae"))
_CATALOG.register("fashion-dit", ZooModel("pipeline", "fashion-dit"))
_CATALOG.register("fashion-classifier", ZooModel("classifier", "fashion-classifier"))


def names() -> tuple[str, ...]:
    """Names of the shipped models."""
    return tuple(_CATALOG)


def path(name: str) -> Path:
    """Folder of a shipped model.

    Raises:
        InputError: no such model; the message holds near misses.
    """
    return _MODELS / _CATALOG[name].folder


def load_pipeline(name: str, dtype: torch.dtype = torch.float32) -> DiTPipeline:
    """Load a shipped pipeline on the CPU, without a progress bar.

    Args:
        name: Name of the pipeline.
        dtype: Data type of its weights.

    Raises:
        InputError: no such model, or it is no pipeline.
    """
    if _CATALOG[name].kind != "pipeline":
        pipelines = ", ".join(known for known in names() if _CATALOG[known].kind == "pipeline")
        raise InputError(f"name: {name!r} is no pipeline but a part of one ({_CATALOG[name].kind}); try {pipelines}")
    # JSON turned the labels into strings, which diffusers reads but warns of; here they are numbers again.
    labels = dict(enumerate(CLASS_NAMES))
    with _no_progress_bar():
        pipeline = DiTPipeline.from_pretrained(
            path(name), dtype=dtype, local_files_only=True, use_safetensors=True, id2label=labels
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Silence the bar that diffusers draws while it loads; a second is too short for one."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_classifier() -> FashionClassifier:
    """Load ``fashion-classifier`` in eval mode."""
    return read_classifier(path("fashion-classifier"))
