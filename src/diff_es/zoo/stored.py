"""Pipelines as files: in half precision, and readable by older versions of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from diffusers import DiTPipeline, FluxPipeline, ModelMixin, StableDiffusionXLPipeline

from diff_es.artifacts import new_folder
from diff_es.errors import InputError
from diff_es.zoo import dit, flux, sdxl

if TYPE_CHECKING:
    from pathlib import Path

M = TypeVar("M", bound=ModelMixin)

Pipeline: TypeAlias = DiTPipeline | StableDiffusionXLPipeline | FluxPipeline
"""The pipelines of the zoo."""

_TOKENIZER: Final = "PreTrainedTokenizerFast"
_TOKENIZER_SINCE_5: Final = "TokenizersBackend"


def write_pipeline(pipeline: Pipeline, folder: Path) -> None:
    """Write a pipeline in half precision: half the size, and diffusers computes in float32 unless asked otherwise.

    The text encoders of transformers stay in float32: they would be loaded as they are stored.
    """
    with new_folder(folder) as temporary:
        _halved(pipeline).save_pretrained(temporary)
        _name_tokenizers_as_ever(temporary)


def stored(model: M) -> M:
    """Copy a model into half precision, without the note of the local folder that it may have been loaded from."""
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    copied: M = type(model).from_config(config)
    copied.load_state_dict(model.state_dict())
    copied.half()
    return copied


def _halved(pipeline: Any) -> Pipeline:
    match pipeline:
        case DiTPipeline():
            return dit.build_pipeline(stored(pipeline.transformer), stored(pipeline.vae))
        case StableDiffusionXLPipeline():
            return sdxl.build_pipeline(stored(pipeline.unet), stored(pipeline.vae))
        case FluxPipeline():
            return flux.build_pipeline(stored(pipeline.transformer), stored(pipeline.vae))
        case _:
            raise InputError(f"pipeline: cannot store a {type(pipeline).__name__}")


def _name_tokenizers_as_ever(folder: Path) -> None:
    """Undo the renaming of a class in transformers 5: its new name is unknown to version 4, and the old one is not."""
    for file in (folder / "model_index.json", *folder.glob("tokenizer*/tokenizer_config.json")):
        file.write_text(file.read_text(encoding="utf-8").replace(_TOKENIZER_SINCE_5, _TOKENIZER), encoding="utf-8")
