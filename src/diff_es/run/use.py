"""What one does with a finished run: generate images with the artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from diff_es.artifacts import slugs
from diff_es.bank import Pruned
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import generate
from diff_es.routing import Mode, load
from diff_es.run.base import load_base
from diff_es.sampling import ImageRequests, PromptRequests, Requests, class_labels, takes_labels

#: Images per run of the pipeline in `generate_images`.
_BATCH = 16


def generate_images(  # noqa: PLR0913 (the options of the command)
    artefact: Path,
    output: Path,
    *,
    labels: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    count: int = 10,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
    mode: Mode | Literal["auto"] = "auto",
    memory_limit: int | None = None,
) -> list[Path]:
    """Generate images with a pruned model and write them as PNG files.

    Args:
        artefact: The folder `pruned` of a run.
        output: Folder for the images, made where it is missing.
        labels: Class labels to go round; all by default. For class-conditional models.
        prompts: Prompts to go round. For text-to-image models.
        count: Number of images.
        seed: Seed of the first image; the next ones follow.
        model: The dense model; by default the one that the artefact names.
        device: "auto", "cpu", "cuda", …
        mode: Where the stages' weights live; see `apply_`.
        memory_limit: For mode "auto": bytes of device memory for the denoiser's weights.

    Raises:
        ArtifactError: the artefact is damaged, or the images cannot be written.
        InputError: the dense model cannot be loaded or is another one, a label is out of range, or labels were given
            for prompts or the other way round.
    """
    info = Pruned.open(artefact).info
    pipe = load_base(info, model, device)
    requests = _requests(pipe, labels, prompts, count, seed)
    load(artefact, pipe, mode=mode, memory_limit=memory_limit)
    images = generate(pipe, requests, info.sampler, batch_size=_BATCH)
    paths = [output / name for name in _names(requests)]
    try:
        output.mkdir(parents=True, exist_ok=True)
        for image, path in zip(images, paths, strict=True):
            Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    except OSError as error:
        raise ArtifactError(f"Cannot write images to output={output}: {error.strerror or error}.") from error
    return paths


def _requests(
    pipe: Any, labels: Sequence[int] | None, prompts: Sequence[str] | None, count: int, seed: int
) -> ImageRequests:
    """Make requests of the kind that the pipeline takes."""
    kind = type(pipe).__name__
    if takes_labels(pipe):
        if prompts:
            raise InputError(f"prompts={list(prompts)}, but {kind} makes images from class labels: give --label.")
        return Requests.cycle(tuple(labels or class_labels(pipe)), count, seed)
    if labels:
        raise InputError(f"labels={list(labels)}, but {kind} makes images from prompts: give --prompt.")
    if not prompts:
        raise InputError(f"{kind} makes images from prompts: give at least one --prompt.")
    return PromptRequests.cycle(prompts, count, seed)


def _names(requests: ImageRequests) -> list[str]:
    """File names that say what the images were made from; the seeds tell apart what is shortened."""
    if isinstance(requests, PromptRequests):
        whats = [slugs([prompt])[0] for prompt in requests.prompts]
    else:
        whats = [f"label-{label}" for label in requests.labels]
    return [f"{what}-seed-{seed}.png" for what, seed in zip(whats, requests.seeds, strict=True)]
