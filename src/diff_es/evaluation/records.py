"""The records of an evaluation: each number beside the protocol and the environment it was measured in.

They are written as `evaluation.json`. A broken measurement is kept as NaN, never dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diff_es.artifacts import read_record, write_record
from diff_es.errors import InputError
from diff_es.evaluation.environment import Environment
from diff_es.evaluation.latency import LatencyRecord
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
class Protocol:
    """How the numbers of one evaluation were measured; equal for all its schedules.

    Attributes:
        model: Name or id of the pipeline.
        scheduler: Class of the sampler ("DDIMScheduler").
        sampling: Steps and guidance.
        probes: Samples behind ssim and latent_mse; the search never saw them.
        images: Samples behind label_agreement and classifier_frechet.
        reference_images: Real images that classifier_frechet compares with.
        latency_batch_size: Images per timed call.
        metric_versions: Metric → what computed it ("torchmetrics 1.9.0").
    """

    model: str
    scheduler: str
    sampling: SamplerConfig
    probes: Samples
    images: Samples
    reference_images: int
    latency_batch_size: int
    metric_versions: dict[str, str]


@dataclass(frozen=True)
class ScheduleEvaluation:
    """What one pruning schedule costs and keeps.

    Attributes:
        name: Short name, unique within an evaluation ("dense", "uniform").
        description: One sentence: how the schedule came about.
        levels: Stage levels, stage 0 first; None for the dense model.
        ssim: Mean SSIM to the dense images, in [-1, 1]; higher is better.
        latent_mse: Mean squared difference to the dense latents; lower is better.
        label_agreement: Share of images, in [0, 1], that the classifier gives the requested label; None where there is
            no classifier for the model.
        classifier_frechet: Fréchet distance on classifier features (not FID); lower is better; None as above.
        macs: Multiply-adds of all denoiser calls for one image, guidance included.
        macs_ratio: `macs` as a share of the dense model's, in (0, 1].
        latency: Measured time of one pipeline call of `latency_batch_size` images.
    """

    name: str
    description: str
    levels: Levels | None
    ssim: float
    latent_mse: float
    label_agreement: float | None
    classifier_frechet: float | None
    macs: int
    macs_ratio: float
    latency: LatencyRecord

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense model, the reference of all others."""
        return self.levels is None


@dataclass(frozen=True)
class Evaluation:
    """Dense model and schedules, measured side by side.

    Attributes:
        schedules: One record each; exactly one is the dense model, names are unique.
        protocol: How they were measured.
        environment: Where they were measured.
        protocol_text: The protocol in words, for readers.
        format: Version of this record.
    """

    schedules: tuple[ScheduleEvaluation, ...]
    protocol: Protocol
    environment: Environment
    protocol_text: str
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise InputError(f"Evaluation.schedules has a name twice: {names}.")
        if sum(schedule.is_dense for schedule in self.schedules) != 1:
            raise InputError(f"Evaluation.schedules needs exactly one dense model (levels=None) among {names}.")

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
