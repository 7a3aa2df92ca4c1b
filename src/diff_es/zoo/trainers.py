"""The verb ``train``: run one model's recipe in a folder, resumable, and leave a complete model in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from diffusers import AutoencoderKL

from diff_es.artifacts import new_folder
from diff_es.errors import InputError
from diff_es.registry import Registry
from diff_es.zoo.catalog import path as shipped
from diff_es.zoo.classifier import save_classifier
from diff_es.zoo.classifier_training import ClassifierRecipe, train_classifier
from diff_es.zoo.data import DEFAULT_SOURCE
from diff_es.zoo.dit import DitRecipe, train_dit
from diff_es.zoo.flux_training import PAIRS_FOLDER, TEACHER_FOLDER, FluxRecipe, train_flux
from diff_es.zoo.sdxl import SdxlRecipe
from diff_es.zoo.sdxl_training import train_sdxl
from diff_es.zoo.stored import Pipeline, stored, write_pipeline
from diff_es.zoo.training import CHECKPOINT_NAME, LOG_NAME, SaveConfig
from diff_es.zoo.vae import VaeRecipe, train_vae

AnyRecipe = VaeRecipe | DitRecipe | SdxlRecipe | FluxRecipe | ClassifierRecipe

_RECIPES: Final[Registry[type[AnyRecipe]]] = Registry("zoo model")
_RECIPES.register("fashion-vae", VaeRecipe)
_RECIPES.register("fashion-dit", DitRecipe)
_RECIPES.register("fashion-sdxl", SdxlRecipe)
_RECIPES.register("fashion-flux", FluxRecipe)
_RECIPES.register("fashion-classifier", ClassifierRecipe)

_MODEL_FOLDER: Final = "model"
_SNAPSHOT_FOLDER: Final = "snapshots"


def train(
    name: str, output: Path, *, data: Path = DEFAULT_SOURCE, resume: bool = True, recipe: AnyRecipe | None = None
) -> Path:
    """Train a model of the zoo.

    ``output`` receives ``checkpoint.safetensors`` (every three minutes), ``training.jsonl``, for pipelines
    ``snapshots/step-*`` (every ten minutes, each loadable), and at the end ``model/``; for ``fashion-flux`` also
    ``teacher/`` and ``pairs/``.

    Args:
        name: ``"fashion-vae"``, ``"fashion-dit"``, ``"fashion-sdxl"``, ``"fashion-flux"`` (on the latents of the
            shipped autoencoder) or ``"fashion-classifier"``.
        output: run folder; created if missing.
        data: folder of Fashion-MNIST in the idx format.
        resume: go on from the checkpoint in ``output``; False deletes what an earlier run left there.
        recipe: None for the recipe of the shipped model.

    Returns:
        The folder of the finished model.

    Raises:
        InputError: unknown name, missing data, a recipe of another model, or a checkpoint of another recipe.
    """
    kind = _RECIPES[name]
    recipe = kind() if recipe is None else recipe
    if not isinstance(recipe, kind):
        raise InputError(f"recipe: {name!r} is trained by a {kind.__name__}, got {type(recipe).__name__}")
    if not resume:
        _clear(output)
    model = output / _MODEL_FOLDER
    if not model.exists():
        _train(recipe, data, SaveConfig(folder=output, resume=resume), model)
    return model


def _clear(output: Path) -> None:
    """Delete what an earlier run wrote, and nothing else that may lie in the folder."""
    for file in (CHECKPOINT_NAME, LOG_NAME):
        (output / file).unlink(missing_ok=True)
    for folder in (_MODEL_FOLDER, _SNAPSHOT_FOLDER, TEACHER_FOLDER, PAIRS_FOLDER):
        shutil.rmtree(output / folder, ignore_errors=True)


def _train(recipe: AnyRecipe, data: Path, save: SaveConfig, model: Path) -> None:
    snapshots = _Snapshots(save.folder)
    match recipe:
        case VaeRecipe():
            vae = train_vae(recipe, data, save)
            with new_folder(model) as folder:
                stored(vae).save_pretrained(folder)
        case DitRecipe():
            write_pipeline(train_dit(recipe, _shipped_vae(), data, save, snapshots), model)
        case SdxlRecipe():
            write_pipeline(train_sdxl(recipe, _shipped_vae(), data, save, snapshots), model)
        case FluxRecipe():
            write_pipeline(train_flux(recipe, _shipped_vae(), data, save, snapshots), model)
        case ClassifierRecipe():
            classifier = train_classifier(recipe, data, save)
            with new_folder(model) as folder:
                save_classifier(classifier, folder)


def _shipped_vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(shipped("fashion-vae"), local_files_only=True)


class _Snapshots:
    """Writes the pipeline so far into ``snapshots/step-N``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _SNAPSHOT_FOLDER

    def __call__(self, pipeline: Pipeline, step: int) -> None:
        target = self._folder / f"step-{step}"
        if not target.exists():  # a resumed run may pass a step again
            write_pipeline(pipeline, target)
