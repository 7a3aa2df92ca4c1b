"""Where tables are made: work that several rows or tables need is done once and kept by what it depends on.

Several processes may work in one folder at once: each takes what no other is working on, and waits at the end for what
is left. Everything is resumable, because everything is looked up before it is made.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diff_es.artifacts import held, read_record, write_record
from diff_es.evaluation import DENSE, Judge, Quality, StoredSamples
from diff_es.evaluation.caches import Cache, cache_for
from diff_es.evaluation.environment import device_name
from diff_es.pipelines import load_pipeline
from diff_es.progress import track
from diff_es.reproduce.result import Effort
from diff_es.run import Session
from diff_es.run.measure import Bench, Contestant
from diff_es.search.journal import read_entries

if TYPE_CHECKING:
    import torch

    from diff_es.recipe import Recipe
    from diff_es.schedule import PruningSchedule

#: What a bank depends on. The device is left out: a bank may be built on one and used on another.
_BANK_SECTIONS = ("model", "dtype", "seed", "stages", "sampler", "calibration", "pruning", "prompts")
#: Seconds between two looks at what other processes work on.
_POLL = 2.0


@dataclass(frozen=True)
class _Built:
    """How long calibration, bank and sensitivity took; None where a part of them was there before."""

    seconds: float | None


class Workspace:
    """One folder, shared by all tables of one scale."""

    def __init__(self, folder: Path, judge: Judge | None, device: str = "auto") -> None:
        """Use a folder.

        Args:
            folder: Made where it is missing.
            judge: What images are judged by.
            device: Where the models run.
        """
        self.folder = folder
        self.judge = judge
        self.device = device
        self._pipes: dict[tuple[str, str], Any] = {}
        self._sessions: dict[str, Session] = {}

    def session(self, recipe: Recipe) -> Session:
        """Return the session of a recipe; its bank is shared with all recipes that need the same."""
        here = recipe.changed({"device": self.device})
        folder = self.search_folder(recipe)
        if folder.name not in self._sessions:
            self._sessions[folder.name] = Session(here, folder, self.pipe(recipe), self.bank_folder(recipe))
        return self._sessions[folder.name]

    def pipe(self, recipe: Recipe) -> Any:
        """Return the recipe's dense pipeline, loaded once."""
        key = (recipe.model, recipe.dtype)
        if key not in self._pipes:
            self._pipes[key] = load_pipeline(recipe.model, recipe.dtype, self.device)
        return self._pipes[key]

    def schedule(self, recipe: Recipe) -> PruningSchedule:
        """Return the schedule that a recipe's search has found."""
        return self.session(recipe).schedule(recipe.search.allocation)

    def contestant(self, name: str, recipe: Recipe) -> Contestant:
        """Return a recipe's schedule, to be measured under the cache that the recipe asks for."""
        return Contestant(name, "", self.schedule(recipe), self.session(recipe).bank, _cache(recipe))

    def search_all(self, recipes: Sequence[Recipe]) -> None:
        """Build the banks of all recipes and run their searches, sharing the work with other processes."""
        different = {self.search_folder(recipe): recipe for recipe in recipes}
        self._share([partial(self._search, recipe) for recipe in different.values()], "Searching rows")

    def sample_all(self, recipes: Sequence[Recipe]) -> None:
        """Make and assess the images of all recipes' schedules, sharing the work with other processes."""
        different = {self.image_folder(recipe): recipe for recipe in recipes}
        self._share([partial(self._assess, recipe) for recipe in different.values()], "Measuring rows")

    def quality(self, recipe: Recipe) -> Quality:
        """Return the quality of a recipe's schedule, made where it is missing."""
        bench, session = self.bench(recipe), self.session(recipe)
        return bench.assess(self.samples(recipe), self.dense_samples(recipe), session.evaluation_images())

    def dense_quality(self, recipe: Recipe) -> Quality:
        """Return the quality of a recipe's dense model, made where it is missing."""
        dense = self.dense_samples(recipe)
        return self.bench(recipe).assess(dense, dense, self.session(recipe).evaluation_images())

    def samples(self, recipe: Recipe) -> StoredSamples:
        """Return the images of a recipe's schedule."""
        return self._sample(recipe, self.contestant("row", recipe), self.image_folder(recipe))

    def dense_samples(self, recipe: Recipe) -> StoredSamples:
        """Return the dense model's images for the same seeds."""
        content = _content(recipe)
        shared = {name: content[name] for name in ("model", "dtype", "sampler", "seed", "prompts") if name in content}
        return self._sample(recipe, Contestant(DENSE, ""), self.folder / "dense" / _digest(shared))

    def bench(self, recipe: Recipe) -> Bench:
        """Return what runs a recipe's model."""
        return Bench(self.session(recipe).pipe, self.session(recipe).sampler, self.judge)

    def effort(self, recipe: Recipe) -> Effort:
        """Return what it took to find a recipe's schedule."""
        session = self.session(recipe)
        result = session.search(recipe.search.allocation)
        entries = read_entries(session.folder / "search" / recipe.search.allocation / "journal.jsonl")
        built = session.stock / f"built-{recipe.search.allocation}.json"
        return Effort(
            seed=session.search_seed,
            levels=result.levels,
            fitness=result.fitness,
            evaluated=result.evaluated,
            denoiser_calls=sum(entry.outcome.denoiser_calls for entry in entries),
            replayed_calls=sum(entry.outcome.replayed_calls for entry in entries),
            search_seconds=sum(entry.seconds for entry in entries),
            bank_seconds=read_record(built, _Built).seconds if built.exists() else None,
        )

    def bank_folder(self, recipe: Recipe) -> Path:
        """Where the recipe's calibration, bank and sensitivity lie."""
        content = _content(recipe)
        parts = {name: content[name] for name in _BANK_SECTIONS if name in content}
        parts["sensitivity_samples"] = recipe.search.sensitivity_samples
        return self.folder / "banks" / f"{recipe.pruning.method}-{recipe.stages}-{_digest(parts)}"

    def search_folder(self, recipe: Recipe) -> Path:
        """Where the recipe's search lies, and the images of its schedule."""
        content = {name: part for name, part in _content(recipe).items() if name not in ("evaluation", "device")}
        name = f"{recipe.pruning.method}-{recipe.search.sparsity:g}-{recipe.search.algorithm}"
        return self.folder / "searches" / f"{name}-{_digest(content)}"

    def image_folder(self, recipe: Recipe) -> Path:
        """Where the images of the recipe's schedule lie; caches leave the search as it is."""
        cache = _cache(recipe)
        return self.search_folder(recipe) / ("images" if cache is None else f"images, {cache}")

    def costs_file(self, name: str, settings: Mapping[str, Any], device: torch.device) -> Path:
        """Where what was measured is kept, by everything that it depends on but the versions of the libraries."""
        known = _digest({"settings": settings, "device": device_name(device)})
        return self.folder / "costs" / f"{name}-{known}.json"

    def _search(self, recipe: Recipe) -> bool:
        """Build the bank and run the search; False where another process is at it."""
        session = self.session(recipe)
        with held(session.stock / ".lock") as mine:
            if not mine:
                return False
            self._build(session)
        with held(session.folder / ".lock") as mine:
            if mine:
                session.search(recipe.search.allocation)
            return mine

    def _build(self, session: Session) -> None:
        """Make the bank, and the sensitivity where it is used; write down how long it took."""
        allocation = session.recipe.search.allocation
        record = session.stock / f"built-{allocation}.json"
        if record.exists():
            return
        begun = any(session.stock.glob("*/*"))
        start = time.perf_counter()
        session.allocation(allocation)
        write_record(record, _Built(None if begun else time.perf_counter() - start))

    def _assess(self, recipe: Recipe) -> bool:
        """Make a schedule's images and their quality; False where another process is at it."""
        with held(self.session(recipe).folder / ".lock") as mine:
            if mine:
                self.quality(recipe)
            return mine

    def _sample(self, recipe: Recipe, entry: Contestant, folder: Path) -> StoredSamples:
        session = self.session(recipe)
        return self.bench(recipe).sample(entry, session.evaluation_images(), folder, recipe.evaluation.batch_size)

    def _share(self, jobs: list[Callable[[], bool]], description: str) -> None:
        """Do all jobs, with a progress bar."""
        for _ in track(_done(jobs), description, total=len(jobs)):
            pass


def _done(jobs: list[Callable[[], bool]]) -> Iterator[None]:
    """Do all jobs and yield once for each; one that another process is at is looked at again at the end."""
    while jobs:
        busy = []
        for job in jobs:
            if job():
                yield
            else:
                busy.append(job)
        if len(busy) == len(jobs):
            time.sleep(_POLL)
        jobs = busy


def _cache(recipe: Recipe) -> Cache | None:
    return cache_for(recipe.evaluation.deep_cache, recipe.evaluation.first_block_cache)


def _content(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values; what is for text-to-image models alone is left out where it is empty.

    So folders that were made before there were such keys keep their names.
    """
    content = recipe.model_dump(mode="json")
    if not content["prompts"]:
        del content["prompts"]
    if not content["calibration"]["captions"]:
        del content["calibration"]["captions"]
    return content


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
