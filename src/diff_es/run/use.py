"""What one does with a finished run: generate images with the artefact, check the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from diff_es.artifacts import MANIFEST, read_record
from diff_es.bank import Bank, Pruned
from diff_es.errors import ArtifactError
from diff_es.evaluation import Evaluation, generate
from diff_es.recipe import Recipe
from diff_es.routing import load
from diff_es.run.models import load_base
from diff_es.sampling import Requests, class_labels
from diff_es.search import SearchResult

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
    pipe = load_base(info, model, device)
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


def verify_folder(folder: Path) -> dict[str, int]:
    """Check a run directory, a bank or an artefact: every file against its manifest, every record by reading it.

    Returns:
        Name of what was checked → number of files.

    Raises:
        ArtifactError: something is missing or damaged, or the folder is none of the three.
    """
    if (folder / MANIFEST).exists():
        return {folder.name: _verify_weights(folder)}
    if not (folder / "recipe.yaml").exists():
        raise ArtifactError(f"{folder} is no run directory, bank or artefact: neither {MANIFEST} nor recipe.yaml.")
    Recipe.read(folder / "recipe.yaml")
    checked = {"recipe.yaml": 1}
    for name in ("bank", "pruned"):
        checked[name] = _verify_weights(folder / name)
    results = sorted(folder.glob("search/*/result.json"))
    for path in results:
        read_record(path, SearchResult)
    Evaluation.read(folder / "evaluation.json")
    return checked | {"search": len(results), "evaluation.json": 1}


def _verify_weights(folder: Path) -> int:
    """Open a bank or an artefact, which checks all its files, and read every tensor."""
    opened = Pruned.open(folder) if (folder / "schedule.json").exists() else Bank.open(folder)
    for shard in opened.shards:
        for name in shard:
            shard[name]
    return len(opened.info.files) + 1
