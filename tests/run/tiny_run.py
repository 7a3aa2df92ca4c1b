"""A whole run on the tiny pipeline, made once and copied by the tests that repeat or damage it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from diff_es.recipe import Recipe
from diff_es.run import RunResult, compress
from support import tiny_pipe

TINY: Mapping[str, Any] = {
    "device": "cpu",
    "stages": 3,
    "sampler": {"steps": 6},
    "calibration": {"source": "sampling", "samples": 10, "batch_size": 10},
    "pruning": {"method": "obs", "levels": 4},
    "search": {
        "probes": 2,
        "batch_size": 2,
        "generations": 2,
        "survivors": 2,
        "offspring": 3,
        "sensitivity_samples": 4,
    },
    "evaluation": {
        "compare": ["searched-uniform"],
        "images": 4,
        "batch_size": 2,
        "latency_batch_sizes": [2],
        "latency_repeats": 2,
    },
}


#: Records without times or versions.
_EQUAL = {"result.json", "sensitivity.json", "schedule.json", "settings.json", "quality.json"}


@dataclass(frozen=True)
class Finished:
    """A run that ended, with what it was made from. Tests copy the folder before they change it."""

    model: Path
    recipe: Recipe
    folder: Path
    result: RunResult

    def copy(self, target: Path) -> Path:
        shutil.copytree(self.folder, target)
        return target


def tiny_settings(model: Path | str, /, **changes: Any) -> dict[str, Any]:
    """The recipe as plain values; `changes` replace top-level keys, or update sections."""
    settings: dict[str, Any] = {"model": str(model), **TINY}
    for name, change in changes.items():
        known = settings.get(name)
        settings[name] = {**known, **change} if isinstance(known, Mapping) else change
    return settings


def tiny_recipe(model: Path | str, /, **changes: Any) -> Recipe:
    return Recipe.parse(tiny_settings(model, **changes))


@cache
def saved_model(base: Path) -> Path:
    """The tiny pipeline, saved once per test session below `base`."""
    folder = base / "tiny-model"
    pipe = tiny_pipe()
    pipe.save_pretrained(folder)
    # DiTPipeline reads the names of its classes from here, but does not write them.
    index = folder / "model_index.json"
    names = {str(label): name for name, label in pipe.labels.items()}
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": names}))
    return folder


@cache
def finished_run(base: Path) -> Finished:
    """One run from start to end per test session."""
    model = saved_model(base)
    recipe = tiny_recipe(model)
    folder = base / "finished-run"
    return Finished(model, recipe, folder, compress(recipe, folder, command="diff-es run tiny.yaml"))


def canonical_journal(path: Path) -> list[tuple[Any, ...]]:
    """What a resumed search repeats exactly, read without the journal's own code."""
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return sorted((e["generation"], e["child"], e["levels"], e["fitness"]) for e in entries)


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a resumed run must share with an uninterrupted one: bytes, or values where times are beside."""
    kept: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("figures/", "calibration/")) or not path.is_file():
            continue
        if path.suffix == ".safetensors" or path.name in _EQUAL:
            kept[name] = path.read_bytes()
        elif path.name == "manifest.json":
            kept[name] = {**json.loads(path.read_text()), "versions": None}
        elif path.name == "journal.jsonl":
            kept[name] = canonical_journal(path)
        elif path.name == "evaluation.json":
            rows = json.loads(path.read_text())["schedules"]
            kept[name] = [{**row, "cost": {**row["cost"], "latency": None}} for row in rows]
        else:
            kept[name] = None
    return kept


def tensor_count(folder: Path) -> int:
    """Tensors in all shards of a folder, none of them empty of meaning: every shard loads."""
    return sum(len(load_file(path)) for path in sorted(folder.glob("*.safetensors")))
