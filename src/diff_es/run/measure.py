"""MEASURE the dense model and every compared schedule side by side: fidelity, quality, MACs, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diff_es import zoo
from diff_es.calibration import record_calls
from diff_es.denoisers import count_macs, denoiser_of
from diff_es.evaluation import (
    ClassifierScores,
    Evaluation,
    LatencyRecord,
    Protocol,
    Samples,
    ScheduleEvaluation,
    classifier_scores,
    environment,
    extract_features,
    generate,
    measure_latency,
)
from diff_es.fitness import Result, run
from diff_es.images import to_tensor
from diff_es.metrics import metrics
from diff_es.routing import Router, install_, remove_
from diff_es.sampling import Requests, sample

if TYPE_CHECKING:
    from diff_es.run.session import Session
    from diff_es.schedule import PruningSchedule

DENSE = "dense"
_METRICS = ("ssim", "latent_mse")


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison.

    Attributes:
        name: Short unique name.
        description: One sentence: how the schedule came about.
        schedule: What is pruned; None for the dense model.
    """

    name: str
    description: str
    schedule: PruningSchedule | None


def evaluate(session: Session, contestants: tuple[Contestant, ...]) -> Evaluation:
    """Measure all contestants on the same seeds within one run.

    Args:
        session: The run; its pipeline is dense before and after.
        contestants: The dense model first.
    """
    bench = Bench(session)
    results = {entry.name: bench.probe(entry) for entry in contestants}
    scores = {entry.name: bench.classify(entry) for entry in contestants}
    macs = {entry.name: bench.macs(entry) for entry in contestants}
    latency = bench.latency(contestants)
    rows = tuple(_row(entry, results, scores[entry.name], macs, latency[entry.name]) for entry in contestants)
    return Evaluation(rows, _protocol(session), environment(session.device), _PROTOCOL_TEXT)


class Bench:
    """Runs contestants; each keeps one router, so that nothing is cut twice."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pipe = session.pipe
        self._routers: dict[str, Router] = {}
        self._classifier = _classifier(session)

    def probe(self, entry: Contestant) -> Result:
        """Sample the held-out probes."""
        session = self._session
        batches = session.evaluation_probes().batches(session.recipe.evaluation.batch_size)
        with self.running(entry):
            results = [run(self._pipe, batch, session.sampler) for batch in batches]
        images = torch.cat([result.of("images") for result in results])
        return Result(images, torch.cat([result.latents for result in results]))

    def classify(self, entry: Contestant) -> ClassifierScores | None:
        """Sample the evaluation images and let the classifier judge them; None where no classifier is known."""
        if self._classifier is None:
            return None
        session = self._session
        requests = session.evaluation_images()
        with self.running(entry):
            images = generate(self._pipe, requests, session.sampler, batch_size=session.recipe.evaluation.batch_size)
        classifier, reference = self._classifier
        return classifier_scores(classifier, images, torch.tensor(requests.labels), reference=reference)

    def macs(self, entry: Contestant) -> int:
        """Count the multiply-adds of all denoiser calls for one image, guidance included."""
        session = self._session
        calls = record_calls(self._pipe, Requests((0,), (0,)), session.sampler)
        denoiser = denoiser_of(self._pipe)
        with self.running(entry):
            return sum(count_macs(denoiser, _on_device(call, session.device)) for _, call in calls)

    def latency(self, contestants: tuple[Contestant, ...]) -> dict[str, LatencyRecord]:
        """Time one pipeline call of each contestant, alternating."""
        section = self._session.recipe.evaluation
        images = self._session.evaluation_images()
        batch = Requests.cycle(images.labels, section.latency_batch_size, images.seeds[0])
        sides = {entry.name: self._side(entry, batch) for entry in contestants}
        return measure_latency(sides, repeats=section.latency_repeats, device=self._session.device)

    def _side(self, entry: Contestant, batch: Requests) -> Callable[[], None]:
        def side() -> None:
            with self.running(entry):
                sample(self._pipe, batch, self._session.sampler)

        return side

    @contextmanager
    def running(self, entry: Contestant) -> Iterator[None]:
        """Route the pipeline by the contestant's schedule."""
        if entry.schedule is None:
            yield
            return
        denoiser = denoiser_of(self._pipe)
        if entry.name not in self._routers:
            self._routers[entry.name] = Router(denoiser, self._session.bank)
            self._routers[entry.name].set_schedule(entry.schedule)
        install_(denoiser, self._routers[entry.name])
        try:
            yield
        finally:
            remove_(self._pipe)


def _row(
    entry: Contestant,
    results: Mapping[str, Result],
    scores: ClassifierScores | None,
    macs: Mapping[str, int],
    latency: LatencyRecord,
) -> ScheduleEvaluation:
    own, dense = results[entry.name], results[DENSE]
    fidelity = {
        name: float(metrics[name](own.of(metrics[name].needs), dense.of(metrics[name].needs)).mean())
        for name in _METRICS
    }
    return ScheduleEvaluation(
        name=entry.name,
        description=entry.description,
        levels=None if entry.schedule is None else entry.schedule.levels,
        ssim=fidelity["ssim"],
        latent_mse=fidelity["latent_mse"],
        label_agreement=scores.label_agreement if scores else None,
        classifier_frechet=scores.classifier_frechet if scores else None,
        macs=macs[entry.name],
        macs_ratio=macs[entry.name] / macs[DENSE],
        latency=latency,
    )


_PROTOCOL_TEXT = (
    "SSIM and latent MSE compare each image with the dense model's for the same seed and label, on probes that the "
    "search never saw. Label agreement and the Fréchet distance use the shipped Fashion-MNIST classifier; the distance "
    "is taken on its features against test images, and is no FID. MACs count the matrix products of all denoiser "
    "calls for one image, guidance included. Latency is the median of whole pipeline calls, all models alternating."
)


def _protocol(session: Session) -> Protocol:
    section = session.recipe.evaluation
    probes, images = session.evaluation_probes(), session.evaluation_images()
    return Protocol(
        model=session.recipe.model,
        scheduler=type(session.pipe.scheduler).__name__,
        sampling=session.sampler,
        probes=Samples(len(probes), probes.seeds[0]),
        images=Samples(len(images), images.seeds[0]),
        reference_images=len(zoo.reference_set().images) if _has_classifier(session) else 0,
        latency_batch_size=section.latency_batch_size,
        metric_versions={name: metrics[name].version for name in _METRICS},
    )


def _has_classifier(session: Session) -> bool:
    """The shipped classifier knows Fashion-MNIST and nothing else."""
    return session.recipe.model.startswith("zoo:fashion")


def _classifier(session: Session) -> tuple[Any, Tensor] | None:
    if not _has_classifier(session):
        return None
    classifier = zoo.load_classifier()
    images = (to_tensor(zoo.reference_set().images) + 1) / 2
    return classifier, extract_features(classifier, images.clamp(0, 1))


def _on_device(call: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in call.items()}
