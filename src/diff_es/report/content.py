"""What a report shows; checked once, here."""

from __future__ import annotations

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
class ReportContent:
    """Everything a report shows.

    Attributes:
        title: Heading of the report.
        evaluation: Dense model and schedules, measured side by side.
        schedules: Name in `evaluation` → pruning schedule.
        history: Name of the search → its generations, in order.
        fitness: What the searches maximised ("SSIM to dense on 16 probes").
        images: Name in `evaluation` → images (N, H, W, 3), uint8 or float in [0, 1]; image i has the same seed
            everywhere.
        columns: One word for each of the N images (their class); empty to leave the columns unnamed.
        recipe: The resolved recipe as text.
        command: The command that made the run.
        notes: Remarks, one sentence or more each.
    """

    title: str
    evaluation: Evaluation
    schedules: Mapping[str, PruningSchedule] = field(default_factory=dict)
    history: Mapping[str, tuple[FitnessPoint, ...]] = field(default_factory=dict)
    fitness: str = "fitness"
    images: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    recipe: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [schedule.name for schedule in self.evaluation.schedules]
        for kind, names in (("schedules", self.schedules), ("images", self.images)):
            if unknown := [name for name in names if name not in known]:
                raise InputError(f"ReportContent.{kind} names {unknown}, which the evaluation lacks; it has {known}.")
        if empty := [name for name, points in self.history.items() if not points]:
            raise InputError(f"ReportContent.history of {empty} holds no generation; leave such a search out.")
        self._check_images()

    def _check_images(self) -> None:
        shapes = {images.shape for images in self.images.values()}
        if len(shapes) > 1:
            raise InputError(f"ReportContent.images must all have one shape, got {sorted(shapes)}.")
        for name, images in self.images.items():
            if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
                raise InputError(f"ReportContent.images[{name!r}] must be (N, H, W, 3), got {images.shape}.")
            if self.columns and len(self.columns) != len(images):
                raise InputError(f"ReportContent.columns has {len(self.columns)} names for {len(images)} images.")
            if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
                raise InputError(f"ReportContent.images[{name!r}] must be uint8 or float, got {images.dtype}.")
            finite = images[np.isfinite(images)]
            if images.dtype != np.uint8 and finite.size and not 0 <= finite.min() <= finite.max() <= 1:
                raise InputError(f"ReportContent.images[{name!r}] must lie in [0, 1] (or be uint8).")
