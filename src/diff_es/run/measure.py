"""MEASURE the dense model and every compared schedule side by side: quality on stored images, and cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from diff_es.artifacts import read_record, slugs, write_record
from diff_es.bank import Bank
from diff_es.denoisers import denoiser_of
from diff_es.evaluation import (
    CHUNK,
    DENSE,
    Contender,
    Cost,
    Evaluation,
    ImageScores,
    Judge,
    Measurement,
    Protocol,
    Quality,
    Samples,
    ScheduleEvaluation,
    Scope,
    StoredSamples,
    agreement,
    assess,
    environment,
    fidelity,
    make_chunk,
    measure_batch_sizes,
    measure_costs,
    measurements,
    missing_chunks,
    routing_contender,
    stored,
)
from diff_es.evaluation.caches import Cache
from diff_es.evaluation.classifier import NAMES
from diff_es.fitness import run
from diff_es.run.image_settings import ImageSettings, image_settings
from diff_es.run.tasks import make_images
from diff_es.run.turns import Turns, plan_turns
from diff_es.sampling import ImageRequests, PromptRequests, SamplerConfig
from diff_es.schedule import PruningSchedule

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from diff_es.routing import Mode
    from diff_es.run.session import Session
    from diff_es.schedule import Levels
    from diff_es.stages import StagePlan

_log = logging.getLogger(__name__)

FIDELITY = ("ssim", "latent_mse")


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison.

    Attributes:
        name: Short unique name.
        description: One sentence: how the schedule came about.
        schedule: What is pruned; None for the dense model, under a cache or not.
        bank: Where its weights are; None where nothing is pruned.
        cache: What else is on the model while it is measured.
        search: Allocation of the run's own search that found the schedule; empty for any other.
    """

    name: str
    description: str
    schedule: PruningSchedule | None = None
    bank: Bank | None = None
    cache: Cache | None = None
    search: str = ""


class Bench:
    """Runs contestants on one pipeline, of which one is there at a time; all while they are timed, where they fit."""

    def __init__(self, pipe: Any, sampler: SamplerConfig, judge: Judge | None, memory_limit: int | None = None) -> None:
        """Prepare.

        Args:
            pipe: The dense pipeline; it is dense again after every call.
            sampler: Steps and guidance.
            judge: What the images are judged by besides their fidelity to dense.
            memory_limit: Bytes of device memory for the denoiser's weights and activations; by default what is free.
        """
        self.pipe = pipe
        self.sampler = sampler
        self.judge = judge
        self._memory_limit = memory_limit
        self._last: tuple[str, Contender] | None = None

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs."""
        return next(denoiser_of(self.pipe).parameters()).device

    def contender(self, entry: Contestant) -> Contender:
        """Return the context in which the pipeline is this contestant; the one that was asked for before is dropped."""
        if self._last is None or self._last[0] != entry.name:
            self._last = None
            self._last = (entry.name, self._new_contender(entry, self._turns((entry,)).mode))
        return self._last[1]

    def _turns(self, entries: Sequence[Contestant]) -> Turns:
        pruned = [(own.bank, own.schedule) for own in entries if own.bank is not None and own.schedule is not None]
        return plan_turns(self.pipe, pruned, self._memory_limit)

    def _new_contender(self, entry: Contestant, mode: Mode) -> Contender:
        model: Contender = nullcontext
        if entry.schedule is not None and entry.bank is not None:
            model = routing_contender(self.pipe, entry.bank, entry.schedule, mode)
        if entry.cache is None:
            return model
        cache = entry.cache

        @contextmanager
        def cached() -> Iterator[None]:
            with model(), cache.enabled(self.pipe):
                yield

        return cached

    def _alternating(self, entry: Contestant, turns: Turns) -> Contender:
        """Return a contender that is cut now where all fit together, else anew for each of its turns."""
        if turns.together:
            return self._new_contender(entry, turns.mode)

        @contextmanager
        def contender() -> Iterator[None]:
            with self._new_contender(entry, turns.mode)():
                yield

        return contender

    def sample(self, entry: Contestant, requests: ImageRequests, folder: Path, batch_size: int) -> StoredSamples:
        """Return images and latents of a contestant; those that the folder holds already are not made again."""
        settings = self._settings(entry, requests)
        model = self.contender(entry) if self.missing_files(entry, requests, folder) else nullcontext
        with model():
            samples = stored(folder, requests, self._produce, settings=settings, chunk=CHUNK, batch_size=batch_size)
        self._last = None
        return samples

    def missing_files(self, entry: Contestant, requests: ImageRequests, folder: Path) -> list[int]:
        """Return which files of `sample` are not there yet."""
        return missing_chunks(folder, requests, settings=self._settings(entry, requests), chunk=CHUNK)

    def sample_file(
        self, entry: Contestant, requests: ImageRequests, folder: Path, batch_size: int, index: int
    ) -> None:
        """Make one of the files of `sample`."""
        with self.contender(entry)():
            make_chunk(folder, requests, self._produce, index, chunk=CHUNK, batch_size=batch_size)

    def _settings(self, entry: Contestant, requests: ImageRequests) -> ImageSettings:
        weights = tuple(file.sha256 for file in entry.bank.info.files) if entry.bank else ()
        return image_settings(
            self.pipe, self.sampler, requests, weights=weights, schedule=entry.schedule, cache=entry.cache
        )

    def assess(self, own: StoredSamples, dense: StoredSamples, requests: ImageRequests) -> Quality:
        """Compare a contestant's samples with the dense ones, and let the judge look at them; kept beside them."""
        path = own.folder / "quality.json"
        if not path.exists():
            write_record(path, assess(self._scores(own, dense, requests), self.judge))
        return read_record(path, Quality)

    def costs(
        self,
        entries: tuple[Contestant, ...],
        plans: Mapping[str, StagePlan],
        latency: tuple[int, ...],
        repeats: int,
        *,
        scopes: tuple[Scope, ...] = ("denoiser", "pipeline"),
    ) -> dict[str, Cost]:
        """Count and time all contestants; their times alternate within each batch size.

        Args:
            entries: The dense model first.
            plans: Name → the stages of its schedule.
            latency: Batch sizes to time; empty for none.
            repeats: Timed runs of each.
            scopes: What is timed.
        """
        self._last = None
        turns = self._turns(entries)
        if not turns.together:
            _log.info("Memory mode of the timed models: %s", turns.why)
        contenders = {entry.name: self._alternating(entry, turns) for entry in entries}
        times = {}
        if latency:
            times = measure_batch_sizes(
                self.pipe, contenders, self.sampler, batch_sizes=latency, scopes=scopes, repeats=repeats
            )
        costs: dict[str, Cost] = {}
        for plan in dict.fromkeys(plans[entry.name] for entry in entries):
            alike = {entry.name: contenders[entry.name] for entry in entries if plans[entry.name] == plan}
            counted = measure_costs(self.pipe, {DENSE: contenders[DENSE], **alike}, plan, self.sampler, latency=times)
            costs |= {name: counted[name] for name in alike}
        mode = turns.mode if latency else None
        return {
            entry.name: replace(costs[entry.name], latency_mode=mode if entry.schedule is not None else None)
            for entry in entries
        }

    def measurements(self, quality: Quality, requests: ImageRequests) -> tuple[Measurement, ...]:
        """Return one record per metric."""
        samples = Samples(len(requests), requests.seeds[0])
        return measurements(quality, self.judge, samples, self.sampler, str(self.device))

    def _produce(self, requests: ImageRequests) -> dict[str, Tensor]:
        """Sample one batch. Values that are not finite become black pixels, of which latents of NaN tell."""
        result = run(self.pipe, requests, self.sampler)
        images = result.of("images")
        # A VAE in half precision can overflow on latents that are finite.
        broken = ~images.isfinite().flatten(1).all(dim=1)
        pixels = (images.nan_to_num(0.0) * 255).round().clamp(0, 255).to(torch.uint8)
        latents = result.latents.masked_fill(broken.view(-1, *[1] * (result.latents.ndim - 1)), torch.nan)
        return {"images": pixels.permute(0, 2, 3, 1).contiguous(), "latents": latents}

    def _scores(self, own: StoredSamples, dense: StoredSamples, requests: ImageRequests) -> ImageScores:
        """Compare and judge file by file: 50,000 images of 256 × 256 would not fit in memory as floats."""
        mine, theirs = (zip(side.batches("images"), side.batches("latents"), strict=True) for side in (own, dense))
        batches: list[ImageRequests] = list(requests.batches(CHUNK))
        parts = zip(mine, theirs, batches, strict=True)
        return ImageScores.join([self._part(*a, *b, batch.labels) for a, b, batch in parts])

    def _part(
        self, images: Tensor, latents: Tensor, dense_images: Tensor, dense_latents: Tensor, labels: tuple[int, ...]
    ) -> ImageScores:
        broken = ~latents.isfinite().flatten(1).all(dim=1)
        mine, theirs = {"images": images, "latents": latents}, {"images": dense_images, "latents": dense_latents}
        values = {
            name: scores.masked_fill(broken, torch.nan) for name, scores in fidelity(mine, theirs, FIDELITY).items()
        }
        if self.judge is None:
            return ImageScores(values)
        judged = self.judge.look(images)
        judged.features[broken], judged.logits[broken] = torch.nan, torch.nan
        agrees = agreement(judged, torch.tensor(labels)) if self.judge.knows_labels and labels else None
        return ImageScores(values, agrees, judged)


def evaluate(session: Session, bench: Bench, contestants: tuple[Contestant, ...]) -> Evaluation:
    """Measure all contestants on the same seeds.

    Args:
        session: The run; its folder keeps the images.
        bench: What runs them.
        contestants: The dense model first.
    """
    requests, section = session.evaluation_images(), session.recipe.evaluation
    samples = evaluation_samples(session, bench, contestants)
    quality = {name: bench.assess(own, samples[DENSE], requests) for name, own in samples.items()}
    plans = {entry.name: session.plan for entry in contestants}
    # A cached call depends on those before it, so that it has no time of its own.
    cached = any(entry.cache is not None for entry in contestants)
    scopes: tuple[Scope, ...] = ("pipeline",) if cached else ("denoiser", "pipeline")
    costs = bench.costs(contestants, plans, section.latency_batch_sizes, section.latency_repeats, scopes=scopes)
    rows = tuple(
        ScheduleEvaluation(
            name=entry.name,
            description=entry.description,
            levels=_levels(entry, session.plan),
            quality=bench.measurements(quality[entry.name], requests),
            cost=costs[entry.name],
        )
        for entry in contestants
    )
    return Evaluation(rows, _protocol(session, bench.judge), environment(session.device))


def _levels(entry: Contestant, plan: StagePlan) -> Levels | None:
    """The stage levels; none for the dense model that all others are compared with."""
    if entry.schedule is not None:
        return entry.schedule.levels
    return None if entry.cache is None else (0,) * plan.num_stages


def evaluation_samples(session: Session, bench: Bench, contestants: tuple[Contestant, ...]) -> dict[str, StoredSamples]:
    """Return every contestant's images and latents; those that the run directory holds are not made again."""
    folder, size = session.folder / "evaluation", session.recipe.evaluation.batch_size
    requests, names = session.evaluation_images(), slugs([entry.name for entry in contestants])
    named = list(zip(contestants, names, strict=True))
    if session.workers is not None:
        missing = ((entry, name, bench.missing_files(entry, requests, folder / name)) for entry, name in named)
        make_images(session.workers, [(entry, name, index) for entry, name, files in missing for index in files])
    return {entry.name: bench.sample(entry, requests, folder / name, size) for entry, name in named}


_FIDELITY_TEXT = (
    "SSIM and latent MSE compare each image with the dense model's for the same seed and {what}; no search saw these "
    "seeds."
)
_AGREEMENT_TEXT = (
    " Label agreement is the share of images to which the shipped Fashion-MNIST classifier gives the requested label."
)
_CLASSIFIER_TEXT = (
    " The Fréchet distance, the inception-score analogue (one split), precision and recall (k = 3) use the features of "
    "the shipped Fashion-MNIST classifier and are neither FID nor the inception score."
)
_COST_TEXT = (
    " Intervals are 95 % bootstrap intervals over the images. MACs count the matrix products of all denoiser calls for "
    "one image, guidance included, one multiplication and addition each. Latency is a median; all models alternate "
    "within each batch size."
)


def _protocol(session: Session, judge: Judge | None) -> Protocol:
    known = judge is not None and judge.names == NAMES
    requests = session.evaluation_images()
    what = "prompt" if isinstance(requests, PromptRequests) else "label"
    agreed = _AGREEMENT_TEXT * bool(requests.labels)
    return Protocol(
        name="fidelity and fashion-classifier" if known else "fidelity",
        model=session.recipe.model,
        scheduler=type(session.pipe.scheduler).__name__,
        sampling=session.sampler,
        text=_FIDELITY_TEXT.format(what=what) + (agreed + _CLASSIFIER_TEXT) * known + _COST_TEXT,
    )
