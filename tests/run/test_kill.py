"""A run killed by SIGKILL at random moments, from calibration to evaluation, ends as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from diff_es.recipe import Recipe
from diff_es.run import compress
from run.tiny_run import outcome, saved_model, tiny_recipe

KILLS = 24


def recipe_for(model: Path) -> Recipe:
    """More stages and generations than the other tests use: more moments to be killed at."""
    return tiny_recipe(
        model,
        stages=6,
        search={"generations": 5, "probes": 4, "batch_size": 4},
        evaluation={"compare": ["searched-uniform"], "images": 130, "batch_size": 32, "latency_repeats": 10},
    )


def progress(folder: Path) -> int:
    """How much of a run is on disk: complete files, and lines of the journals."""
    # Folders are renamed while this looks, which os.walk passes over.
    found = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    files = [path for path in found if ".tmp/" not in path.as_posix()]
    return len(files) + sum(path.read_bytes().count(b"\n") for path in files if path.suffix == ".jsonl")


def phase(folder: Path) -> str:
    """The step that a run is in."""
    done = {
        "writing the report": folder / "evaluation.json",
        "timing": folder / "evaluation" / "searched-sensitivity" / "quality.json",
        "bootstrap": folder / "evaluation" / "searched-sensitivity" / "000128-000129.safetensors",
        "images": folder / "search" / "uniform" / "result.json",
        "second search": folder / "pruned",
        "artefact": folder / "search" / "sensitivity" / "result.json",
        "search": folder / "search" / "sensitivity.json",
        "sensitivity": folder / "bank" / "manifest.json",
        "bank": folder / "calibration" / "stage-05.safetensors",
    }
    return next((step for step, path in done.items() if path.exists()), "calibration")


def killed(command: list[str], folder: Path, moments: random.Random) -> bool:
    """Start the command, kill it some progress and a random delay later; False where it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    # Every life gets a little further, on average a `KILLS`th part of the run.
    wanted = progress(folder) + moments.randint(1, 5)
    while process.poll() is None and progress(folder) < wanted:
        time.sleep(0.001)
    time.sleep(0.1 * moments.random() ** 2)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in {0, -9}, errors.decode()
    return process.returncode == -9


@pytest.mark.slow
def test_killed_again_and_again_equals_uninterrupted(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """How often one run can be killed before it ends depends on the machine, so runs are killed until it is enough."""
    recipe = recipe_for(saved_model(tmp_path))
    compress(recipe, tmp_path / "straight")
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    moments, phases, leftovers = random.Random(1), Counter[str](), 0
    while sum(phases.values()) < KILLS:
        folder = tmp_path / f"killed after {sum(phases.values())}"
        arguments = ["run", str(tmp_path / "recipe.yaml"), "--output", str(folder), "--resume"]
        command = [sys.executable, "-c", "from diff_es.cli import main; main()", *arguments]
        while sum(phases.values()) < KILLS and killed(command, folder, moments):
            phases[phase(folder)] += 1
            leftovers += len(list(folder.rglob("*.tmp")))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert outcome(folder) == outcome(tmp_path / "straight")
        assert not list(folder.rglob("*.tmp"))
    record_property("kills", json.dumps({**phases, "half-written files met": leftovers}))
    print(f"{sum(phases.values())} kills: {dict(phases)}; {leftovers} half-written files met")
    assert {"calibration", "bank", "search", "second search", "images"} <= set(phases)
