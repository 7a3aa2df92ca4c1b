"""What the report of a run shows; checked once, here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from diff_es.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from diff_es.evaluation import Evaluation
    from diff_es.schedule import PruningSchedule


@dataclass(frozen=True)
class FitnessPoint:
    """The survivors of one generation.

    Attributes:
        generation: 0 for the start population.
        best: Highest fitness.
        mean: Mean fitness of those that have one.
        worst: Lowest fitness of those that have one.
    """

    generation: int
    best: float
    mean: float
    worst: float


@dataclass(frozen=True, eq=False)
class WorstCase:
    """One image that a schedule changes most.

    Attributes:
        seed: Seed of both images.
        ssim: SSIM of the two.
        dense: The dense model's image (H, W, 3), uint8 or float in [0, 1].
        pruned: The schedule's image, of the same shape.
        label: Its class or prompt; may be empty.
    """

    seed: int
    ssim: float
    dense: NDArray[Any]
    pruned: NDArray[Any]
    label: str = ""

    def __post_init__(self) -> None:
        if self.dense.shape != self.pruned.shape:
            raise InputError(f"WorstCase.dense is {self.dense.shape} and pruned {self.pruned.shape}; they must agree.")
        for name, image in (("dense", self.dense), ("pruned", self.pruned)):
            check_images(f"WorstCase.{name}", image[None])


@dataclass(frozen=True, eq=False)
class Gallery:
    """Generated images: the same seeds for every model, and the worst cases of each schedule.

    Attributes:
        images: Name of a model or schedule → images (N, H, W, 3), uint8 or float in [0, 1]; image i has the same seed
            and label everywhere.
        labels: One word for each of the N images (their class); empty to leave them unnamed.
        seeds: Seed of each of the N images; empty where they are not known.
        worst: Name of a schedule → the images that it changes most, worst first.
        dense: The name in `images` that the others are compared with.
    """

    images: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    worst: Mapping[str, tuple[WorstCase, ...]] = field(default_factory=dict)
    dense: str = "dense"

    def __post_init__(self) -> None:
        shapes = {images.shape for images in self.images.values()}
        if len(shapes) > 1:
            raise InputError(f"Gallery.images must all have one shape, got {sorted(shapes)}.")
        for name, images in self.images.items():
            check_images(f"Gallery.images[{name!r}]", images)
        for kind, names in (("labels", self.labels), ("seeds", self.seeds)):
            if names and len(names) != self.count:
                raise InputError(f"Gallery.{kind} has {len(names)} entries for {self.count} images.")

    @property
    def count(self) -> int:
        """Images of each model."""
        return len(next(iter(self.images.values()), ()))

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the gallery speaks of."""
        return tuple(dict.fromkeys((*self.images, *self.worst)))


@dataclass(frozen=True)
class Provenance:
    """Where a report comes from, and what it stands on.

    Attributes:
        command: The exact command that made it.
        recipe: The resolved recipe as text.
        notes: Remarks, one sentence or more each.
        licences: Model, data set or metric that was used → its licence in words.
        checksums: Path of a file, relative to the report → its sha256, 64 hexadecimal digits.
    """

    command: str = ""
    recipe: str = ""
    notes: tuple[str, ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, digest in self.checksums.items():
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise InputError(f"Provenance.checksums[{path!r}]={digest!r} is no sha256 (64 hexadecimal digits).")


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything that the report of a run shows.

    Attributes:
        title: Heading of the report.
        evaluation: Dense model and schedules, measured side by side.
        schedules: Name in `evaluation` → pruning schedule.
        history: Name of the search → its generations, in order.
        fitness: What the searches maximised ("SSIM to dense on 16 probes").
        gallery: Images of models in `evaluation`.
        provenance: Command, recipe, notes, licences, checksums.
    """

    title: str
    evaluation: Evaluation
    schedules: Mapping[str, PruningSchedule] = field(default_factory=dict)
    history: Mapping[str, tuple[FitnessPoint, ...]] = field(default_factory=dict)
    fitness: str = "fitness"
    gallery: Gallery = field(default_factory=Gallery)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        known = [schedule.name for schedule in self.evaluation.schedules]
        for kind, names in (("schedules", self.schedules), ("gallery", self.gallery.names)):
            if unknown := [name for name in names if name not in known]:
                raise InputError(f"ReportContent.{kind} names {unknown}, which the evaluation lacks; it has {known}.")
        check_history("ReportContent.history", self.history)


def check_history(name: str, history: Mapping[str, tuple[FitnessPoint, ...]]) -> None:
    """Refuse a search without generations.

    Raises:
        InputError: a search has no generation.
    """
    if empty := [search for search, points in history.items() if not points]:
        raise InputError(f"{name} of {empty} holds no generation; leave such a search out.")


def check_images(name: str, images: NDArray[Any]) -> None:
    """Refuse anything but images (N, H, W, 3), uint8 or float in [0, 1]; values that are not finite may be there.

    Raises:
        InputError: another shape, type or range.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise InputError(f"{name} must be images (N, H, W, 3) with N ≥ 1, got {images.shape}.")
    if images.dtype == np.uint8:
        return
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{name} must be uint8 or float, got {images.dtype}.")
    finite = images[np.isfinite(images)]
    if finite.size and not 0 <= finite.min() <= finite.max() <= 1:
        raise InputError(f"{name} must lie in [0, 1] (or be uint8), got {finite.min()} to {finite.max()}.")
