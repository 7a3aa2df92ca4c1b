"""What one does with a finished run: generate images with the artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from diff_es.bank import Pruned
from diff_es.errors import ArtifactError
from diff_es.evaluation import generate
from diff_es.pipelines import load_pipeline
from diff_es.routing import load
from diff_es.sampling import Requests, class_labels

#: Images per run of the pipeline in `generate_images`.
_BATCH = 16


def generate_images(  # noqa: PLR0913 (the options of the command)
    artefact: Path,
    output: Path,
    *,
    labels: Sequence[int] | None = None,
    count: int = 10,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
) -> list[Path]:
    """Generate images with a pruned model and write them as PNG files.

    Args:
        artefact: The folder `pruned` of a run.
        output: Folder for the images, made where it is missing.
        labels: Class labels to go round; all by default.
        count: Number of images.
        seed: Seed of the first image; the next ones follow.
        model: The dense model; by default the one that the artefact names.
        device: "auto", "cpu", "cuda", …

    Raises:
        ArtifactError: the artefact is damaged, or the images cannot be written.
        InputError: the dense model cannot be loaded or is another one, or a label is out of range.
    """
    info = Pruned.open(artefact).info
    pipe = load_pipeline(model or info.base_model, info.fingerprint.dtype, device)
    load(artefact, pipe)
    requests = Requests.cycle(tuple(labels or class_labels(pipe)), count, seed)
    images = generate(pipe, requests, info.sampler, batch_size=_BATCH)
    paths = [
        output / f"label-{label}-seed-{own}.png" for label, own in zip(requests.labels, requests.seeds, strict=True)
    ]
    try:
        output.mkdir(parents=True, exist_ok=True)
        for image, path in zip(images, paths, strict=True):
            Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    except OSError as error:
        raise ArtifactError(f"Cannot write images to output={output}: {error.strerror or error}.") from error
    return paths
