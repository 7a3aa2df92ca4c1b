"""At which scale a table is made again: what changes in the recipes of the paper, and how much is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diff_es.errors import InputError
from diff_es.recipe import Recipe, read_yaml, shipped

Positive = Annotated[int, Field(ge=1)]


class Scale(BaseModel):
    """One scale; the shipped ones are `small` and `paper`.

    Attributes:
        name: Its name.
        description: What stands for what, one sentence without its full stop.
        seeds: One search is made with each of these seeds.
        images: Images that each row is measured on; None for what its recipe says.
        generations: Generations of a search whose row takes all of them; None for what its recipe says.
        probes: Images that each schedule of such a search is scored on; None for what its recipe says.
        changes: What changes in every recipe.
        families: Family of recipes ("dit" in "paper/dit-obs") → what changes in them besides, section by section.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    seeds: tuple[int, ...] = Field(min_length=1)
    images: Positive | None = None
    generations: Positive | None = None
    probes: Positive | None = None
    changes: dict[str, Any]
    families: dict[str, dict[str, Any]] = {}

    @classmethod
    def load(cls, name: str) -> Scale:
        """Read a shipped scale, "small" or "paper"."""
        path = shipped(f"scales/{name}")
        try:
            return cls.model_validate({"name": name, **read_yaml(path)})
        except ValidationError as error:
            raise InputError(f"{path} is no scale: {error}") from error

    def changed(self, changes: Mapping[str, Any]) -> Scale:
        """Return the scale with further changes in every recipe; sections are merged key by key."""
        merged = dict(self.changes)
        for key, value in changes.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
        return self.model_copy(update={"changes": merged})

    def recipe(self, base: str, *, seed: int, generations: float = 1.0, probes: float = 1.0, **changes: Any) -> Recipe:
        """Return a recipe of the paper at this scale.

        Args:
            base: Name of a shipped recipe ("paper/dit-obs").
            seed: Of the search and its probes.
            generations: Share of the scale's generations, or of the recipe's.
            probes: Share of the scale's probes, or of the recipe's.
            changes: What the row itself changes, section by section; it comes last.
        """
        family = self.families.get(Path(base).stem.partition("-")[0], {})
        recipe = Recipe.read(shipped(base)).changed(self.changes).changed(family)
        search = {
            "seed": seed,
            "generations": round((self.generations or recipe.search.generations) * generations),
            "probes": round((self.probes or recipe.search.probes) * probes),
        }
        images = self.images or recipe.evaluation.images
        return recipe.changed({"search": search, "evaluation": {"images": images}}).changed(changes)
