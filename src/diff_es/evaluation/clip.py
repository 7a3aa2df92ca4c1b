"""CLIP score: how well an image fits its prompt, as the cosine of their CLIP embeddings.

Reported as max(0, cos) in [0, 1], as in the paper (0.32 for SDXL, ViT-B/16). Others report 100 times that, or 2.5
times that (Hessel et al. 2021, eq. 1), and scores of different CLIP models cannot be compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.nn.functional import cosine_similarity

from diff_es.artifacts import sha256
from diff_es.errors import InputError
from diff_es.metrics.no_reference.network import checked_images
from diff_es.progress import track

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

#: The model of the paper (section 4.1).
DEFAULT_MODEL = "openai/clip-vit-base-patch16"
_WEIGHTS = "model.safetensors"
_FILES = ("*.json", "merges.txt", _WEIGHTS)


@dataclass(frozen=True, eq=False)
class ClipScorer:
    """A CLIP model with its tokeniser and image processor; make one with `ClipScorer.load`.

    Attributes:
        model: transformers' CLIPModel, in eval mode.
        tokenizer: Its tokeniser.
        processor: Its image processor: resize to 224 (bicubic), crop the centre, normalise.
        version: Library and model ("transformers 5.0.0, openai/clip-vit-base-patch16").
        weights_sha256: sha256 of its safetensors file.
    """

    model: Any
    tokenizer: Any
    processor: Any
    version: str
    weights_sha256: str

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        device: torch.device | str = "cpu",
        *,
        revision: str | None = None,
    ) -> ClipScorer:
        """Load a CLIP model from a folder, or from the hub (or its local cache).

        Args:
            name_or_path: A model on the hub, or a folder as `save_pretrained` writes it.
            device: Where the model runs.
            revision: Branch, tag or commit on the hub; None takes the main branch.

        Raises:
            InputError: missing, also in the cache while offline; without safetensors weights; or no CLIP model.
        """
        import transformers  # noqa: PLC0415 (takes seconds)

        folder = _folder(str(name_or_path), revision)
        try:
            model, loading = transformers.CLIPModel.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            processor = transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise InputError(f"{name_or_path} cannot be loaded as a CLIP model: {_first_line(error)}") from error
        _check_whole(str(name_or_path), model, tokenizer, loading)
        name = folder.resolve().name if Path(name_or_path).is_dir() else name_or_path
        version = f"transformers {transformers.__version__}, {name}"
        return cls(model.eval().to(device), tokenizer, processor, version, sha256(folder / _WEIGHTS))

    @torch.no_grad()
    def score_batches(self, batches: Iterable[Tensor], prompts: Sequence[str]) -> Tensor:
        """Score images against their prompts; they come in batches, so that they need not all be in memory.

        Args:
            batches: (n, 3, H, W) each, in [0, 1]; N images in all. Rounded to 8 bits first, as images are saved.
            prompts: N prompts; what goes beyond the model's context (77 tokens) is cut off with one warning.

        Returns:
            (N,) float32 in [0, 1] on the CPU; NaN for an image that is not finite.

        Raises:
            InputError: the numbers of images and prompts differ, or images are outside [0, 1].
        """
        tokens = self._tokens(prompts)
        scores: list[Tensor] = []
        done = 0
        for images in track(batches, "Scoring images against prompts"):
            rows = slice(done, done + len(images))
            done = rows.stop
            if done > len(prompts):
                break
            scores.append(self._cosines(images, {name: values[rows] for name, values in tokens.items()}))
        if done != len(prompts):
            count = "more" if done > len(prompts) else str(done)
            raise InputError(f"{len(prompts)} prompts but {count} images; give one prompt per image.")
        return torch.cat(scores).clamp(min=0, max=1)

    def _tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenise all prompts, cut to the model's context."""
        if not prompts:
            raise InputError("prompts is empty; give one prompt per image.")
        texts = list(prompts)
        context = int(self.model.config.text_config.max_position_embeddings)
        whole = self.tokenizer(texts, verbose=False)["input_ids"]
        too_long = sum(len(row) > context for row in whole)
        if too_long:
            _log.warning(
                "%d of %d prompts have more than %d tokens; CLIP reads the beginning only.",
                too_long,
                len(texts),
                context,
            )
        tokens = self.tokenizer(texts, truncation=True, max_length=context, padding=True, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _cosines(self, images: Tensor, tokens: dict[str, Tensor]) -> Tensor:
        """Return the cosines of one batch, (n,) on the CPU."""
        images = checked_images("images", images)
        finite = images.flatten(1).isfinite().all(dim=1).cpu()
        pixels = (images.nan_to_num(0, 0, 0) * 255).round().to(torch.uint8).cpu()
        inputs = self.processor(images=list(pixels), return_tensors="pt")["pixel_values"]
        device = self.model.device
        seen = _embedding(self.model.get_image_features(pixel_values=inputs.to(device)))
        read = _embedding(self.model.get_text_features(**{name: rows.to(device) for name, rows in tokens.items()}))
        return cosine_similarity(seen, read).float().cpu().where(finite, torch.nan)


def _check_whole(name: str, model: Any, tokenizer: Any, loading: dict[str, Any]) -> None:
    """Refuse what transformers fills up and goes on with: missing weights by random ones, a missing vocabulary by none.

    Raises:
        InputError: the weights or the tokeniser's vocabulary are not those of the model.
    """
    lacking = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if lacking:
        raise InputError(f"{name} is no whole CLIP model: its weights lack {len(lacking)}, such as {lacking[0]}.")
    words, rows = len(tokenizer), model.config.text_config.vocab_size
    if words != rows:
        raise InputError(
            f"{name} is no whole CLIP model: its tokeniser has {words} words and its model {rows}; are vocab.json and "
            "merges.txt (or tokenizer.json) there?"
        )


def _embedding(output: Any) -> Tensor:
    """Read the projected embedding: transformers 4 returns it, transformers 5 an object that holds it."""
    embedding: Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return embedding


def _folder(name: str, revision: str | None) -> Path:
    """Return the folder that holds the model's files, downloaded if it is missing.

    Raises:
        InputError: it cannot be had, or it has no safetensors weights.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import constants, snapshot_download  # noqa: PLC0415 (slow to import)

        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
        except (OSError, ValueError) as error:
            raise InputError(
                f"The CLIP model {name!r} is no folder, not in the hub cache ({constants.HF_HUB_CACHE}), and could not "
                f"be downloaded ({_first_line(error)}). Download it on a machine with a network (hf download {name}), "
                "or name a folder that holds it."
            ) from error
    if not (folder / _WEIGHTS).is_file():
        raise InputError(
            f"The CLIP model {name!r} has no {_WEIGHTS} (pickled weights are not read). On a machine with a network, "
            f"CLIPModel.from_pretrained({name!r}, use_safetensors=True).save_pretrained(FOLDER) fetches a converted "
            "copy; save its CLIPProcessor there too and name that folder, or name a revision that has the file."
        )
    if not (folder / "config.json").is_file():  # transformers would take the defaults
        raise InputError(f"The CLIP model {name!r} has no config.json; copy or download the folder again, whole.")
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
