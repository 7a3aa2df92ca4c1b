"""What a table will take, told before it starts: only what is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.run import estimate

if TYPE_CHECKING:
    from diff_es.recipe import Recipe
    from diff_es.reproduce.scale import Scale
    from diff_es.reproduce.table import Table
    from diff_es.reproduce.workspace import Workspace

#: Seconds that the metrics and their bootstrap intervals take per row.
_ASSESSING = 8.0
#: Timed and untimed runs of a row at one batch size.
_TIMED = 23


@dataclass(frozen=True)
class Expectation:
    """What is still to be done.

    Attributes:
        banks: Banks to build.
        searches: Searches to run.
        images: Images to sample and judge.
        seconds: All of it, about, on this machine.
    """

    banks: int
    searches: int
    images: int
    seconds: float


def expect(table: Table, scale: Scale, workspace: Workspace) -> Expectation:
    """Time the dense model once and count what is missing."""
    recipes = [recipe for row in table.rows for recipe in row.recipes(scale)]
    searches = {workspace.search_folder(recipe): recipe for recipe in recipes}
    banks = {workspace.bank_folder(recipe): recipe for recipe in recipes}
    unsearched = [own for folder, own in searches.items() if not any(folder.glob("search/*/result.json"))]
    images = {workspace.image_folder(recipe): recipe for recipe in recipes}
    unjudged = [own for folder, own in images.items() if not (folder / "quality.json").exists()]
    unbuilt = [own for folder, own in banks.items() if not (folder / "bank" / "manifest.json").exists()]
    samples = sum(own.evaluation.images for own in unjudged)
    sample = estimate(workspace.session(recipes[0]))
    image = sample.seconds_per_image
    timed = len(table.rows) * sum(table.latency) * len(table.scopes) * _TIMED * image
    seconds = (
        sum(_search_images(own, workspace) for own in unsearched) * image
        + samples * image
        + len(unjudged) * _ASSESSING
        + sum(_bank_images(own) for own in unbuilt) * image
        + timed
    )
    return Expectation(len(unbuilt), len(unsearched), samples, seconds)


def _search_images(recipe: Recipe, workspace: Workspace) -> float:
    """The search in units of dense images: pruning and replay make each of its images cheaper."""
    evaluations = workspace.session(recipe).algorithm().max_evaluations
    return evaluations * recipe.search.probes * (1 - recipe.search.sparsity / 2) * 0.7


def _bank_images(recipe: Recipe) -> float:
    """Calibration in units of dense images; solving takes about as long again."""
    return 2 * recipe.stages * recipe.calibration.samples / recipe.sampler.steps
