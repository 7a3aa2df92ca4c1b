"""Where bad inputs are made: a folder, the tiny model, and copies of a finished run to damage."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from diff_es.execution import RayWorkers
from diff_es.recipe import Recipe
from diff_es.routing import load
from diff_es.run import Session, compress
from run.tiny_run import Finished, tiny_recipe, tiny_settings
from support import tiny_pipe


class Lab:
    """A folder, the tiny model, and a finished run to damage copies of."""

    def __init__(self, folder: Path, finished: Finished) -> None:
        self.folder = folder
        self.finished = finished
        self.model = finished.model
        self.run_folder = folder / "run"

    def read(self, text: str) -> Recipe:
        path = self.folder / "recipe.yaml"
        path.write_text(text)
        return Recipe.read(path)

    def parse(self, **changes: Any) -> Recipe:
        """Read a recipe that differs from the tiny one, from a file as users do."""
        return self.read(yaml.safe_dump(tiny_settings(self.model, **changes)))

    def run(self, **changes: Any) -> Session:
        """Carry a recipe out; a refused one leaves no folder."""
        return self._compressed(self.parse(**changes))

    def _compressed(self, recipe: Recipe) -> Session:
        compress(recipe, self.run_folder)
        return Session(recipe, self.run_folder)

    def refused(self, **changes: Any) -> None:
        """Carry a recipe out that cannot be: nothing may be written."""
        recipe = self.parse(**changes)
        try:
            compress(recipe, self.run_folder)
        finally:
            assert not self.run_folder.exists()

    def refused_for(self, pipe: Any) -> None:
        """Give a pipeline that cannot be used: nothing may be written."""
        try:
            compress(self.finished.recipe, self.run_folder, pipe=pipe)
        finally:
            assert not self.run_folder.exists()

    def refused_with(self, workers: RayWorkers) -> None:
        """Ask for workers that are refused: nothing may be written."""
        try:
            compress(self.finished.recipe, self.run_folder, workers=workers)
        finally:
            assert not self.run_folder.exists()

    def calibrate(self, data: Path, samples: int = 2) -> None:
        """Begin a run that is calibrated with images, up to the bank."""
        section = {"source": "dataset", "data": str(data), "samples": samples}
        assert Session(tiny_recipe(self.model, calibration=section), self.run_folder).bank

    def image(self, label: str = "0", name: str = "a.png") -> Path:
        path = self.folder / "data" / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(label + name)).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    def two_images(self) -> dict[str, Any]:
        """A calibration section with two images of a folder."""
        self.image("0")
        self.image("1")
        return {"data": str(self.data), "samples": 2}

    @cached_property
    def data(self) -> Path:
        return self.folder / "data"

    @cached_property
    def artefact(self) -> Path:
        """A copy of the finished run's artefact."""
        return Path(shutil.copytree(self.finished.folder / "pruned", self.folder / "pruned"))

    def manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the artefact's manifest."""
        path = self.artefact / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def load(self, pipe: Any = None) -> None:
        """Load the artefact; a refused one leaves the pipeline dense."""
        pipe = pipe if pipe is not None else tiny_pipe()
        try:
            load(self.artefact, pipe)
        finally:
            assert "_diff_es_router" not in vars(pipe.transformer)

    def resume(self, *lost: str) -> None:
        """Resume a copy of the finished run from which something was lost."""
        if not self.run_folder.exists():
            self.finished.copy(self.run_folder)
        for name in lost:
            path = self.run_folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        session = Session(self.finished.recipe, self.run_folder)
        assert session.bank
        session.pruned()


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """No file may grow beyond `largest` bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
