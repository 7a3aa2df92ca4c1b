"""The records of an evaluation: each number beside the protocol and the environment it was measured in.

They are written as `evaluation.json`. A broken measurement is kept as NaN, never dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diff_es.artifacts import read_record, write_record
from diff_es.errors import InputError
from diff_es.evaluation.cost import Cost
from diff_es.evaluation.environment import Environment
from diff_es.sampling import SamplerConfig
from diff_es.schedule import Levels

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Samples:
    """Consecutive seeds: sample i has seed `first_seed + i`.

    Attributes:
        count: Number of samples, ≥ 1.
        first_seed: Seed of sample 0.
    """

    count: int
    first_seed: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"Samples.count={self.count} must be at least 1.")

    @property
    def seeds(self) -> range:
        """All seeds."""
        return range(self.first_seed, self.first_seed + self.count)


@dataclass(frozen=True)
class Measurement:
    """One number of quality, with everything that it depends on.

    Attributes:
        metric: Its name ("ssim", "classifier_frechet", "fid").
        value: NaN where the measurement broke.
        higher_is_better: The direction.
        computed_by: Library and version ("torchmetrics 1.9.0").
        samples: Generated images behind it.
        sampling: Steps and guidance.
        device: Where the images were generated.
        weights: sha256 of the weights of the network behind it; empty where there is none.
        reference: What the images are compared with ("dense", "2000 test images"); empty for metrics without.
        interval: Lower and upper end of a 95 % bootstrap interval over the samples; None where none was made.
    """

    metric: str
    value: float
    higher_is_better: bool
    computed_by: str
    samples: Samples
    sampling: SamplerConfig
    device: str
    weights: str = ""
    reference: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Protocol:
    """How the numbers of one evaluation were measured; equal for all its schedules.

    Attributes:
        name: Name of the protocol ("fidelity and fashion-classifier", "adm-imagenet256").
        model: Name or id of the pipeline.
        scheduler: Class of the sampler ("DDIMScheduler").
        sampling: Steps and guidance.
        text: The protocol in words, for readers.
    """

    name: str
    model: str
    scheduler: str
    sampling: SamplerConfig
    text: str


@dataclass(frozen=True)
class ScheduleEvaluation:
    """What one pruning schedule costs and keeps.

    Attributes:
        name: Short name, unique within an evaluation ("dense", "uniform").
        description: One sentence: how the schedule came about.
        levels: Stage levels, stage 0 first; None for the dense model.
        quality: The measurements; all schedules of an evaluation have the same metrics in the same order.
        cost: What it costs.
    """

    name: str
    description: str
    levels: Levels | None
    quality: tuple[Measurement, ...]
    cost: Cost

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense model, the reference of all others."""
        return self.levels is None

    def value(self, metric: str) -> float | None:
        """Return the value of a metric, None where it was not measured."""
        return next((own.value for own in self.quality if own.metric == metric), None)


@dataclass(frozen=True)
class Evaluation:
    """Dense model and schedules, measured side by side.

    Attributes:
        schedules: One record each; exactly one is the dense model, names are unique.
        protocol: How they were measured.
        environment: Where they were measured.
        format: Version of this record.
    """

    schedules: tuple[ScheduleEvaluation, ...]
    protocol: Protocol
    environment: Environment
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise InputError(f"Evaluation.schedules has a name twice: {names}.")
        if sum(schedule.is_dense for schedule in self.schedules) != 1:
            raise InputError(f"Evaluation.schedules needs exactly one dense model (levels=None) among {names}.")
        metrics = {tuple(own.metric for own in schedule.quality) for schedule in self.schedules}
        if len(metrics) > 1:
            raise InputError(f"Evaluation.schedules must all have the same metrics, got {sorted(metrics)}.")

    @property
    def dense(self) -> ScheduleEvaluation:
        """The dense model."""
        return next(schedule for schedule in self.schedules if schedule.is_dense)

    def write(self, path: Path) -> None:
        """Write `evaluation.json`, atomically."""
        write_record(path, self)

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read `evaluation.json`.

        Raises:
            ArtifactError: the file is missing, damaged or of another format.
        """
        return read_record(path, cls)
