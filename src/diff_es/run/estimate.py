"""What a run will take, told before it starts: evaluations, time, disk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.denoisers import denoiser_of, spec_of
from diff_es.pruning import pruners
from diff_es.run.models import latent_shape
from diff_es.sampling import any_requests, sample

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import Tensor, nn

    from diff_es.calibration.statistics import Statistic
    from diff_es.denoisers import Layer
    from diff_es.recipe import Recipe
    from diff_es.run.session import Session

#: Share of denoiser calls that replay saves: 0.30 and 0.33 in the two searches of the demo; long searches save more.
_REPLAY_SAVES = 0.3
#: Pruners that store a weight for every level.
_COMPENSATED = frozenset({"obs", "obs-diff"})
#: Bytes of a safetensors header for one tensor.
_ENTRY = 100


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        evaluations: Schedules that will be scored, over all searches, at most.
        search_seconds: Time for them.
        other_seconds: Time for calibration, sensitivity, and the final measurements.
        disk_bytes: Size of latents, calibration statistics, bank and artefact together, about.
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
    session.check()
    recipe = session.recipe
    seconds = _seconds_per_image(session)
    searches = len(
        {recipe.search.allocation} | ({"uniform"} if "searched-uniform" in recipe.evaluation.compare else set())
    )
    evaluations = searches * session.algorithm().max_evaluations
    cost = (1 - recipe.search.sparsity / 2) * (1 - _REPLAY_SAVES)
    section = recipe.evaluation
    contestants = 2 + len(section.compare)
    # Each latency is timed twice, once for the denoiser alone.
    timed = 2 * (section.latency_repeats + 3) * sum(section.latency_batch_sizes)
    images = section.images + timed
    return Estimate(
        evaluations=evaluations,
        search_seconds=evaluations * recipe.search.probes * seconds * cost,
        other_seconds=contestants * images * seconds + _preparation_images(session) * seconds,
        disk_bytes=_disk(session),
        seconds_per_image=seconds,
    )


def _seconds_per_image(session: Session) -> float:
    """Time one batch of the search, dense."""
    count = session.recipe.search.batch_size
    requests = any_requests(session.pipe, count)
    sample(session.pipe, requests, session.sampler)
    start = time.perf_counter()
    sample(session.pipe, requests, session.sampler)
    return (time.perf_counter() - start) / count


def _preparation_images(session: Session) -> float:
    """Calibration and sensitivity in units of sampled images: their denoiser calls over the steps of one image."""
    recipe = session.recipe
    denoiser = denoiser_of(session.pipe)
    pruner = pruners[recipe.pruning.method]
    layers = spec_of(denoiser).layers(denoiser, blocks=pruner.depth)
    # A statistic of the whole run looks at every step; gradients cost about two passes more.
    passes = recipe.sampler.steps * (3 if "importance" in pruner.needs else 1) if pruner.one_set else recipe.stages
    calibrated = passes * recipe.calibration.samples * bool(pruner.needs)
    probed = recipe.stages * len(layers) * recipe.pruning.levels * recipe.search.sensitivity_samples / 2
    uses_sensitivity = recipe.search.allocation == "sensitivity"
    return (calibrated + probed * uses_sensitivity) / recipe.sampler.steps


def _disk(session: Session) -> int:
    recipe = session.recipe
    denoiser = denoiser_of(session.pipe)
    pruner = pruners[recipe.pruning.method]
    layers = spec_of(denoiser).layers(denoiser, blocks=pruner.depth)
    kept = 1 - recipe.search.sparsity
    calibration = [size for layer in layers for size in _statistics(denoiser, layer, pruner.needs)]
    bank = [size for layer in layers for size in _trajectory(denoiser, layer, recipe)]
    artefact = [kept * size for layer in layers for size in _thin(denoiser, layer, recipe)]
    sets = 1 if recipe.calibration.shared or pruner.one_set else recipe.stages
    tensors = sets * (len(calibration) + len(bank)) + recipe.stages * len(artefact)
    return (
        _latents(session)
        + int(sets * (sum(calibration) + sum(bank)) + recipe.stages * sum(artefact))
        + _ENTRY * tensors
    )


def _latents(session: Session) -> int:
    """Bytes of the encoded calibration images, float32."""
    section, pipe = session.recipe.calibration, session.pipe
    if section.source == "sampling" or not pruners[session.recipe.pruning.method].needs:
        return 0
    return 4 * section.samples * math.prod(latent_shape(pipe))


def _statistics(denoiser: nn.Module, layer: Layer, needs: Collection[Statistic]) -> Iterator[int]:
    """Bytes of each tensor that calibration keeps of a layer in one stage, float32."""
    if {"second_moment", "step_weighted_moment"} & set(needs):
        for columns in (_weight(denoiser, path).shape[1] for path in layer.outputs):
            yield from (4 * columns**2, 4 * columns, 4)
    if "input_norms" in needs:
        yield from (4 * _weight(denoiser, path).shape[1] for path in layer.scored)
    if "importance" in needs:
        yield from (4 * _weight(denoiser, path).shape[0] for path in layer.inputs)
        yield from (4 * _weight(denoiser, path).shape[1] for path in layer.outputs)
    if "similarity" in needs:
        yield 4


def _trajectory(denoiser: nn.Module, layer: Layer, recipe: Recipe) -> Iterator[int]:
    """Bytes of each tensor that the bank keeps of a layer in one stage: the order, int64, and weights by level."""
    yield 8 * layer.num_groups
    if recipe.pruning.method in _COMPENSATED:
        for removed in set(layer.removed(recipe.pruning.levels)) - {0}:
            share = 1 - removed / layer.num_groups
            yield from (int(share * size) for size in _outputs(denoiser, layer, intercept=recipe.pruning.intercept))


def _thin(denoiser: nn.Module, layer: Layer, recipe: Recipe) -> Iterator[int]:
    """Bytes of each tensor that the artefact would keep of a layer in one stage if nothing were removed."""
    yield 8 * layer.num_groups
    if recipe.pruning.method in _COMPENSATED:
        yield from _outputs(denoiser, layer, intercept=recipe.pruning.intercept)


def _outputs(denoiser: nn.Module, layer: Layer, *, intercept: bool) -> Iterator[int]:
    """Bytes of each output projection of a layer, and of its bias."""
    for weight in (_weight(denoiser, path) for path in layer.outputs):
        yield weight.numel() * weight.element_size()
        yield weight.shape[0] * weight.element_size() * intercept


def _weight(denoiser: nn.Module, path: str) -> Tensor:
    return denoiser.get_submodule(path).weight  # type: ignore[return-value]
