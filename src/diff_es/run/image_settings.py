"""What stored images depend on, those of a run's rows and those of a model that is judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from diff_es.denoisers import Fingerprint, any_denoiser_of, fingerprint
from diff_es.evaluation.caches import Cache
from diff_es.sampling import ImageRequests, PromptRequests, Requests, SamplerConfig
from diff_es.schedule import PruningSchedule
from diff_es.schedulers import scheduler_facts


@dataclass(frozen=True)
class ImageSettings:
    """What stored images depend on; a folder of other images is refused.

    Attributes:
        fingerprint: The dense denoiser.
        scheduler: Class of the pipeline's scheduler.
        scheduler_options: Its options that are not the defaults of that class.
        device: Type of the device ("cpu", "cuda"): another one rounds otherwise, and draws other noise.
        sampler: Steps and guidance.
        requests: Labels or prompts, and seeds.
        weights: sha256 of the files that pruned weights come from; empty for the dense model.
        schedule: What is pruned; None for the dense model, and for an artefact, which has one schedule.
        cache: What else was on the model.
        format: Version of this record.
    """

    fingerprint: Fingerprint
    scheduler: str
    scheduler_options: dict[str, Any]
    device: str
    sampler: SamplerConfig
    requests: Requests | PromptRequests
    weights: tuple[str, ...] = ()
    schedule: PruningSchedule | None = None
    cache: Cache | None = None
    format: Literal[2] = 2

    @property
    def digest(self) -> str:
        """Return the sha256 of all of it."""
        return hashlib.sha256(TypeAdapter(ImageSettings).dump_json(self)).hexdigest()


def image_settings(  # noqa: PLR0913 (facts of the record)
    pipe: Any,
    sampler: SamplerConfig,
    requests: ImageRequests,
    *,
    weights: tuple[str, ...] = (),
    schedule: PruningSchedule | None = None,
    cache: Cache | None = None,
) -> ImageSettings:
    """Describe the images that a pipeline will make; it is dense still."""
    _, denoiser = any_denoiser_of(pipe)
    return ImageSettings(
        fingerprint=fingerprint(denoiser),
        scheduler=type(pipe.scheduler).__name__,
        scheduler_options=scheduler_facts(pipe.scheduler),
        device=next(denoiser.parameters()).device.type,
        sampler=sampler,
        requests=requests,
        weights=weights,
        schedule=schedule,
        cache=cache,
    )
