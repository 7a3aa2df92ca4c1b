"""What the zoo ships, and how to load it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diff_es.errors import InputError
from diff_es.registry import Registry, suggest
from diff_es.zoo.classifier import read_classifier
from diff_es.zoo.data import CLASS_NAMES
from diff_es.zoo.flux import with_default_size_

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diff_es.zoo.classifier import FashionClassifier
    from diff_es.zoo.stored import Pipeline

Kind: TypeAlias = Literal["autoencoder", "pipeline", "classifier"]

_MODELS: Final = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ZooModel:
    """One shipped model.

    Attributes:
        kind: what it is.
        folder: where it lies, relative to the folder of shipped models.
    """

    kind: Kind
    folder: str


_CATALOG: Final[Registry[ZooModel]] = Registry("zoo model")
# The autoencoder is a part of every pipeline; this is the one that the others are copies of.
_CATALOG.register("fashion-vae", ZooModel("autoencoder", "fashion-dit/vae"))
_CATALOG.register("fashion-dit", ZooModel("pipeline", "fashion-dit"))
_CATALOG.register("fashion-sdxl", ZooModel("pipeline", "fashion-sdxl"))
_CATALOG.register("fashion-flux", ZooModel("pipeline", "fashion-flux"))
_CATALOG.register("fashion-classifier", ZooModel("classifier", "fashion-classifier"))


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of the shipped models, of one kind or all."""
    return tuple(name for name in _CATALOG if kind in (None, _CATALOG[name].kind))


def path(name: str) -> Path:
    """Folder of a shipped model.

    Raises:
        InputError: no such model; the message holds near misses.
    """
    return _MODELS / _CATALOG[name].folder


def load_pipeline(name: str, dtype: torch.dtype = torch.float32) -> Pipeline:
    """Load a shipped pipeline on the CPU, without a progress bar.

    Args:
        name: Name of the pipeline.
        dtype: Data type of its weights.

    Raises:
        InputError: no such model, or it is no pipeline.
    """
    pipelines = names("pipeline")
    if name not in _CATALOG:
        raise InputError(f"Unknown zoo model {name!r}: {suggest(name, pipelines)}")
    if name not in pipelines:
        raise InputError(
            f"zoo model {name!r} is no pipeline but the {_CATALOG[name].kind}; try {', '.join(pipelines)}."
        )
    with _no_progress_bars():
        pipeline: Pipeline = DiffusionPipeline.from_pretrained(
            path(name), dtype=dtype, local_files_only=True, use_safetensors=True, **_arguments(name)
        )
    pipeline.set_progress_bar_config(disable=True)
    return with_default_size_(pipeline) if isinstance(pipeline, FluxPipeline) else pipeline


def _arguments(name: str) -> dict[str, Any]:
    """What a pipeline's files do not say, or not well."""
    match name:
        case "fashion-dit":
            # JSON turned the labels into strings, which diffusers reads but warns of; here they are numbers again.
            return {"id2label": dict(enumerate(CLASS_NAMES))}
        case "fashion-sdxl":
            return {"add_watermarker": False}
        case _:
            return {}


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence the bars that diffusers and transformers draw while they load; a second is too short for one."""
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def load_classifier() -> FashionClassifier:
    """Load ``fashion-classifier`` in eval mode."""
    return read_classifier(path("fashion-classifier"))
