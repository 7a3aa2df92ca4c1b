"""CHECK what was made: files against manifests, stored samples against checksums, records by reading them."""

from __future__ import annotations

from pathlib import Path

from diff_es.allocation import Sensitivity
from diff_es.artifacts import MANIFEST, SETTINGS, read_record, slugs
from diff_es.bank import Bank, Pruned
from diff_es.errors import ArtifactError
from diff_es.evaluation import Evaluation, Quality
from diff_es.evaluation.store import check_stored
from diff_es.fitness import BatchChoice
from diff_es.recipe import Recipe
from diff_es.run import judge
from diff_es.run.image_settings import ImageSettings
from diff_es.search import SearchResult
from diff_es.search.journal import read_entries
from diff_es.tensors import Shard


def verify_folder(folder: Path) -> dict[str, int]:
    """Check a run directory, a bank, an artefact, or the folder of `diff-es evaluate`.

    Returns:
        Name of what was checked → number of files; none of what a finished run may do without.

    Raises:
        ArtifactError: something is missing or damaged, or the folder is none of these.
    """
    if (folder / MANIFEST).exists():
        return {folder.name: _weights(folder)}
    if (folder / judge.IMAGES / SETTINGS).exists():
        return _judged(folder)
    if not (folder / "recipe.yaml").exists():
        raise ArtifactError(
            f"{folder} is no run directory, bank, artefact or evaluation: neither {MANIFEST} nor recipe.yaml nor "
            f"{judge.IMAGES}/{SETTINGS}."
        )
    return _run(folder)


def _run(folder: Path) -> dict[str, int]:
    recipe = Recipe.read(folder / "recipe.yaml")
    checked = {"recipe.yaml": 1, "calibration": _statistics(folder / "calibration")}
    for name in ("bank", "pruned"):
        checked[name] = _weights(folder / name)
    checked["search"] = _searches(folder / "search", recipe)
    evaluation = Evaluation.read(folder / "evaluation.json")
    return checked | {"evaluation.json": 1, "evaluation": _rows(folder, evaluation)}


def _statistics(folder: Path) -> int:
    """Look at the length of every file of the calibration; it may have been removed, only a new bank needs it."""
    shards = [Shard(path) for path in sorted(folder.glob("*.safetensors"))]
    return len(shards)


def _searches(folder: Path, recipe: Recipe) -> int:
    """Read what `--resume` reads of the searches, and their journals."""
    compared = {"uniform"} if "searched-uniform" in recipe.evaluation.compare else set()
    allocations = sorted({recipe.search.allocation, *compared})
    for allocation in allocations:
        read_record(folder / allocation / "result.json", SearchResult)
    journals = [read_entries(path) for path in sorted(folder.glob("*/journal.jsonl"))]
    measured: list[object] = []
    if "sensitivity" in allocations:
        measured.append(read_record(folder / "sensitivity.json", Sensitivity))
    if recipe.search.batch_size == "auto":
        measured.append(read_record(folder / "batch_size.json", BatchChoice))
    return len(allocations) + len(journals) + len(measured)


def _rows(folder: Path, evaluation: Evaluation) -> int:
    """Check the samples of every row; the whole folder may have been removed, it is needed for a new report only."""
    samples = folder / "evaluation"
    if not samples.exists():
        return 0
    return sum(_row(samples / slug) for slug in slugs([row.name for row in evaluation.schedules]))


def _row(folder: Path) -> int:
    settings = read_record(folder / SETTINGS, ImageSettings)
    read_record(folder / "quality.json", Quality)
    return check_stored(folder, settings.requests.seeds) + 2


def _judged(folder: Path) -> dict[str, int]:
    """Check the images behind a record of `diff-es evaluate`, and that they are those that it was measured on."""
    settings = read_record(folder / judge.IMAGES / SETTINGS, ImageSettings)
    record = read_record(folder / judge.QUALITY, judge.QualityRecord)
    if record.sources["images"] != settings.digest:
        raise ArtifactError(
            f"{folder / judge.QUALITY} was measured on other images than those beside it; remove one of the two, and "
            "evaluate again."
        )
    images = check_stored(folder / judge.IMAGES, settings.requests.seeds)
    return {judge.QUALITY: 1, judge.IMAGES: images + 1}


def _weights(folder: Path) -> int:
    """Open a bank or an artefact, which checks all its files, and read every tensor."""
    opened = Pruned.open(folder) if (folder / "schedule.json").exists() else Bank.open(folder)
    for shard in opened.shards:
        for name in shard:
            shard[name]
    return len(opened.info.files) + 1
