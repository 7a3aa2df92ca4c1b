"""What a run will take, told before it starts: evaluations, time, memory, disk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.calibration.passes import Forecast, forecast
from diff_es.denoisers import denoiser_of, spec_of
from diff_es.evaluation import CHUNK
from diff_es.fitness import run
from diff_es.pipelines import latent_shape
from diff_es.pruning import pruners
from diff_es.pruning.cost import bank_seconds
from diff_es.pruning.sizes import lost_to_rounding
from diff_es.run.footprint import ENTRY, footprint
from diff_es.sampling import any_requests

if TYPE_CHECKING:
    from diff_es.recipe import Recipe
    from diff_es.routing import ModePlan
    from diff_es.run.session import Session

#: Share of denoiser calls that replay saves: 0.30 and 0.33 in the two searches of the demo; long searches save more.
_REPLAY_SAVES = 0.3
#: Bytes of the seed beside a stored image.
_SEED = 8


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        evaluations: Schedules that will be scored, over all searches, at most.
        search_seconds: Time for them.
        bank_seconds: Time for solving the bank.
        other_seconds: Time for calibration, sensitivity, and the final measurements.
        calibration: Passes, memory and disk of the calibration; None where the pruner needs none.
        removed: Share of the prunable groups that schedules remove at least, over denoiser calls: the budget in levels.
        lost_to_rounding: Share of the FFN channels that levels ask for and rounded widths keep, at most.
        search_memory: Device memory for the weights of the search, in each memory mode, and which one is chosen.
        disk_bytes: Size of latents, calibration statistics, bank, artefact and the evaluation's images together, about.
        seconds_per_image: Measured: one image of the dense pipeline in a search batch.
    """

    evaluations: int
    search_seconds: float
    bank_seconds: float
    other_seconds: float
    calibration: Forecast | None
    removed: float
    lost_to_rounding: float
    search_memory: ModePlan
    disk_bytes: int
    seconds_per_image: float


def estimate(session: Session) -> Estimate:
    """Time one dense run of the pipeline and predict the rest from counts.

    Raises:
        InputError: the recipe cannot be carried out (infeasible budget, too many stages, …): found here already.
    """
    session.check()
    recipe = session.recipe
    seconds, stored = _one_image(session)
    searches = len(
        {recipe.search.allocation} | ({"uniform"} if "searched-uniform" in recipe.evaluation.compare else set())
    )
    evaluations = searches * session.algorithm().max_evaluations
    cost = (1 - recipe.search.sparsity / 2) * (1 - _REPLAY_SAVES)
    section = recipe.evaluation
    contestants = _contestants(recipe)
    # Each latency is timed twice, once for the denoiser alone.
    timed = 2 * (section.latency_repeats + 3) * sum(section.latency_batch_sizes)
    images = section.images + timed
    calibration = _calibration(session)
    layers = session.pruner_config.layers(denoiser_of(session.pipe))
    return Estimate(
        evaluations=evaluations,
        search_seconds=evaluations * recipe.search.probes * seconds * cost,
        bank_seconds=_bank_seconds(session),
        other_seconds=contestants * images * seconds + _preparation_images(session, calibration) * seconds,
        calibration=calibration,
        removed=session.space.least,
        lost_to_rounding=lost_to_rounding(layers, recipe.pruning.levels),
        search_memory=session.planned_memory,
        disk_bytes=_disk(session) + contestants * _samples(section.images, stored),
        seconds_per_image=seconds,
    )


def _one_image(session: Session) -> tuple[float, int]:
    """Time one batch of the search, dense; return seconds per image, and the bytes that an image is stored in."""
    section = session.recipe.search
    count = min(16 if section.batch_size == "auto" else section.batch_size, section.probes)
    requests = any_requests(session.pipe, count)
    run(session.pipe, requests, session.sampler)
    start = time.perf_counter()
    result = run(session.pipe, requests, session.sampler)
    seconds = (time.perf_counter() - start) / count
    pixels, latents = result.of("images")[0], result.latents[0]
    return seconds, pixels.numel() + latents.nbytes + _SEED


def _contestants(recipe: Recipe) -> int:
    """Number of rows of the evaluation: dense, the recipe's own, those compared that are not its own, and a cache's."""
    own = "searched-uniform" if recipe.search.allocation == "uniform" else ""
    section = recipe.evaluation
    cached = section.deep_cache > 1 or section.first_block_cache > 0
    return 2 + cached + sum(name != own for name in section.compare)


def _samples(count: int, size: int) -> int:
    """Bytes of the stored samples of one row: images, latents, seeds, and two checksums in every file."""
    return count * size + math.ceil(count / CHUNK) * 5 * ENTRY


def _calibration(session: Session) -> Forecast | None:
    config = session.calibration_config
    if not config.collect:
        return None
    sets = 1 if config.shared or config.whole_run else session.recipe.stages
    return forecast(session.pipe, config, sets=sets, live=session.recipe.calibration.source == "sampling")


def _bank_seconds(session: Session) -> float:
    pruner = pruners[session.recipe.pruning.method]
    if not pruner.compensates:
        return 0.0
    denoiser = denoiser_of(session.pipe)
    sets = 1 if session.recipe.calibration.shared or pruner.one_set else session.recipe.stages
    return sets * bank_seconds(denoiser, spec_of(denoiser).layers(denoiser, blocks=False))


def _preparation_images(session: Session, calibration: Forecast | None) -> float:
    """Calibration and sensitivity in units of sampled images: their denoiser calls over the steps of one image."""
    recipe = session.recipe
    denoiser = denoiser_of(session.pipe)
    layers = spec_of(denoiser).layers(denoiser, blocks=pruners[recipe.pruning.method].depth)
    calibrated = _calls_per_sample(session, calibration) * recipe.calibration.samples if calibration else 0
    probed = recipe.stages * len(layers) * recipe.pruning.levels * recipe.search.sensitivity_samples / 2
    uses_sensitivity = recipe.search.allocation == "sensitivity"
    return (calibrated + probed * uses_sensitivity) / recipe.sampler.steps


def _calls_per_sample(session: Session, calibration: Forecast) -> float:
    """Denoiser calls that calibration takes for each of its images."""
    steps, pruner = session.recipe.sampler.steps, pruners[session.recipe.pruning.method]
    if pruner.one_set:  # looks at every step; gradients cost about two calls more
        return steps * (3 if "importance" in pruner.needs else calibration.passes)
    rerun = calibration.passes * (calibration.sets - calibration.live)
    if session.recipe.calibration.source == "sampling":
        return steps * (1 + rerun / calibration.sets)
    return rerun


def _disk(session: Session) -> int:
    recipe = session.recipe
    denoiser = denoiser_of(session.pipe)
    section = recipe.pruning
    sizes = footprint(
        denoiser,
        session.pruner_config.layers(denoiser),
        method=section.method,
        num_levels=section.levels,
        stages=recipe.stages,
        shared=recipe.calibration.shared,
        intercept=section.intercept,
    )
    artefact = (1 - recipe.search.sparsity) * sizes.artefact_bytes
    return _latents(session) + int(sizes.calibration_bytes + sizes.bank_bytes + artefact)


def _latents(session: Session) -> int:
    """Bytes of the encoded calibration images, float32."""
    section, pipe = session.recipe.calibration, session.pipe
    if section.source == "sampling" or not pruners[session.recipe.pruning.method].needs:
        return 0
    return 4 * section.samples * math.prod(latent_shape(pipe, session.sampler.arguments))
