"""Where tables are made: work that several rows or tables need is done once and kept by what it depends on.

Several processes may work in one folder: each takes what no other is working on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from diff_es.recipe import Recipe
from diff_es.run import Session, load_pipeline

#: What a bank and the sensitivity depend on. The device is left out: a bank may be built on one and used on another.
_BANK_SECTIONS = ("model", "dtype", "seed", "stages", "sampler", "calibration", "pruning")


class Workspace:
    """One folder, shared by all tables of one scale."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        """Use a folder.

        Args:
            folder: Made where it is missing.
            device: Where the models run.
        """
        self.folder = folder
        self.device = device
        self._pipes: dict[tuple[str, str], Any] = {}

    def session(self, recipe: Recipe) -> Session:
        """Return the session of a recipe; its bank is shared with all recipes that need the same."""
        recipe = recipe.changed({"device": self.device})
        return Session(recipe, self.search_folder(recipe), self.pipe(recipe), self.bank_folder(recipe))

    def pipe(self, recipe: Recipe) -> Any:
        """Return the recipe's dense pipeline, loaded once."""
        key = (recipe.model, recipe.dtype)
        if key not in self._pipes:
            self._pipes[key] = load_pipeline(recipe.model, recipe.dtype, self.device)
        return self._pipes[key]

    def bank_folder(self, recipe: Recipe) -> Path:
        """Where the recipe's calibration, bank and sensitivity lie."""
        content = recipe.model_dump(mode="json")
        parts = {name: content[name] for name in _BANK_SECTIONS}
        parts["sensitivity_samples"] = recipe.search.sensitivity_samples
        return self.folder / "banks" / f"{recipe.pruning.method}-{recipe.stages}-{_digest(parts)}"

    def search_folder(self, recipe: Recipe) -> Path:
        """Where the recipe's search lies, and the images of its schedule."""
        content = recipe.model_dump(mode="json", exclude={"evaluation", "device"})
        name = f"{recipe.pruning.method}-{recipe.search.sparsity:g}-{recipe.search.algorithm}"
        return self.folder / "searches" / f"{name}-{_digest(content)}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
