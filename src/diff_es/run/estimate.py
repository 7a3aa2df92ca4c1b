"""What a run will take, told before it starts: evaluations, time, disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diff_es.calibration.statistics import bytes_needed
from diff_es.denoisers import denoiser_of, spec_of
from diff_es.pruning import pruners
from diff_es.sampling import Requests, sample
from diff_es.schedule import groups_removed
from diff_es.search import EvolutionarySearch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.denoisers import Layer
    from diff_es.run.session import Session

#: Share of denoiser calls that a search saves by replay, and MACs that pruning saves: both measured at 50 %.
_REPLAY_SAVES = 0.3


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        evaluations: Schedules that will be scored, over all searches, at most.
        search_seconds: Time for them.
        other_seconds: Time for calibration, sensitivity, and the final measurements.
        disk_bytes: Size of calibration statistics, bank and artefact together, at most.
        seconds_per_image: Measured: one image of the dense pipeline in a search batch.
    """

    evaluations: int
    search_seconds: float
    other_seconds: float
    disk_bytes: int
    seconds_per_image: float


def estimate(session: Session) -> Estimate:
    """Time one dense run of the pipeline and predict the rest from counts.

    Raises:
        InputError: the recipe cannot be carried out (infeasible budget, too many stages, …): found here already.
    """
    recipe = session.recipe
    seconds = _seconds_per_image(session)
    searches = len(
        {recipe.search.allocation} | ({"uniform"} if "searched-uniform" in recipe.evaluation.compare else set())
    )
    evaluations = searches * EvolutionarySearch(session.space, session.evolution).max_evaluations
    cost = (1 - recipe.search.sparsity / 2) * (1 - _REPLAY_SAVES)
    section = recipe.evaluation
    contestants = 2 + len(section.compare)
    images = section.probes + section.images + (section.latency_repeats + 3) * section.latency_batch_size
    return Estimate(
        evaluations=evaluations,
        search_seconds=evaluations * recipe.search.probes * seconds * cost,
        other_seconds=contestants * images * seconds + _preparation_images(session) * seconds,
        disk_bytes=_disk(session),
        seconds_per_image=seconds,
    )


def _seconds_per_image(session: Session) -> float:
    count = session.recipe.search.batch_size
    requests = Requests.cycle((0,), count, 0)
    sample(session.pipe, requests, session.sampler)
    start = time.perf_counter()
    sample(session.pipe, requests, session.sampler)
    return (time.perf_counter() - start) / count


def _preparation_images(session: Session) -> float:
    """Calibration and sensitivity in units of sampled images: their denoiser calls over the steps of one image."""
    recipe = session.recipe
    denoiser = denoiser_of(session.pipe)
    layers = spec_of(denoiser).layers(denoiser, blocks=pruners[recipe.pruning.method].depth)
    calibrated = recipe.stages * recipe.calibration.samples
    probed = recipe.stages * len(layers) * recipe.pruning.levels * recipe.search.sensitivity_samples / 2
    uses_sensitivity = recipe.search.allocation == "sensitivity"
    return (calibrated + probed * uses_sensitivity) / recipe.sampler.steps


def _disk(session: Session) -> int:
    recipe = session.recipe
    denoiser = denoiser_of(session.pipe)
    sets = 1 if recipe.calibration.shared else recipe.stages
    if recipe.pruning.method != "obs":
        return 2**20
    size = torch.finfo(next(denoiser.parameters()).dtype).bits // 8
    layers = spec_of(denoiser).width_layers(denoiser)
    bank = size * sum(_trajectory_elements(denoiser, layer, recipe.pruning.levels) for layer in layers)
    return sets * (bank + sum(bytes_needed(layer) // 2 for layer in layers))


def _trajectory_elements(denoiser: nn.Module, layer: Layer, num_levels: int) -> int:
    weight: Tensor = denoiser.get_submodule(layer.output).weight  # type: ignore[assignment]
    kept = (layer.num_groups - removed for removed in groups_removed(layer.num_groups, num_levels)[1:])
    return weight.shape[0] * layer.group_size * sum(kept)
