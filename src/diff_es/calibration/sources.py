"""Where calibration inputs come from: noised images of a data set, or the dense model's own sampling runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from diff_es.denoisers import Conditions, denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.sampling import Requests, SamplerConfig, sample, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.stages import StagePlan

#: Keyword arguments of one denoiser call.
Call = dict[str, Any]


class CalibrationSource(Protocol):
    """Gives the denoiser calls that stand for a stage; asked twice, it gives the same calls."""

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        """Yield the calls of one stage, or of all timesteps when `stage` is None (shared calibration)."""


@runtime_checkable
class TargetSource(Protocol):
    """Knows the clean latents behind its calls, and so what the denoiser should predict."""

    def targets(self, pipe: Any, timestep: float) -> Iterator[tuple[Call, Tensor]]:
        """Yield calls at one timestep, each with the output of least loss, (rows, C, h, w); repeatable."""


@dataclass(frozen=True)
class DatasetSource:
    """SNR-aware calibration (paper §3.3): clean latents, noised to a timestep drawn inside the stage.

    Attributes:
        latents: Clean latents in the units that the denoiser sees, shape (N, C, h, w).
        conditions: Their conditions, each tensor with N rows.
        guided: Whether each batch also holds an unconditional half, as in classifier-free guidance.
        batch_size: Latents per call (a guided call has twice as many rows).
        seed: Of the timesteps and the noise.
    """

    latents: Tensor
    conditions: Conditions
    guided: bool = True
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.latents):
            raise InputError("DatasetSource.latents is empty: calibration needs at least one image.")

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        """Yield ceil(N / batch_size) calls with fresh noise for every latent."""
        denoiser = denoiser_of(pipe)
        generator = seeded(self.seed, plan.num_stages if stage is None else stage)
        first, last = _timesteps_inside(plan, stage)
        for start in range(0, len(self.latents), self.batch_size):
            rows = slice(start, start + self.batch_size)
            clean = self.latents[rows]
            timesteps = torch.randint(first, last + 1, (len(clean),), generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            noisy = _add_noise(pipe.scheduler, clean, noise, timesteps)
            yield _call(denoiser, noisy, timesteps, self._conditions(rows), self.guided)

    def targets(self, pipe: Any, timestep: float) -> Iterator[tuple[Call, Tensor]]:
        """Yield ceil(N / batch_size) calls at one timestep, each with what the denoiser should predict there.

        The noise depends on the seed and the timestep alone. Guided calls have the same target in both halves.

        Args:
            pipe: Gives the noise schedule, and whether the model predicts the noise or the velocity.
            timestep: In train units; rounded to a whole one.

        Raises:
            InputError: the model predicts something else.
        """
        denoiser = denoiser_of(pipe)
        whole = min(round(timestep), int(pipe.scheduler.config.num_train_timesteps) - 1)
        # One entry more than the keys of `calls`, so that the two never share a stream.
        generator = seeded(self.seed, whole, 0)
        for start in range(0, len(self.latents), self.batch_size):
            rows = slice(start, start + self.batch_size)
            clean = self.latents[rows]
            timesteps = torch.full((len(clean),), whole)
            noise = torch.randn(clean.shape, generator=generator)
            target = _target(pipe.scheduler, clean, noise, timesteps)
            noisy = _add_noise(pipe.scheduler, clean, noise, timesteps)
            call = _call(denoiser, noisy, timesteps, self._conditions(rows), self.guided)
            yield call, target.repeat(2, 1, 1, 1) if self.guided else target

    def _conditions(self, rows: slice) -> Conditions:
        return {name: value[rows] for name, value in self.conditions.items()}


def _timesteps_inside(plan: StagePlan, stage: int | None) -> tuple[int, int]:
    """First and last whole timestep of a stage; of one too narrow to hold any, the one next to it."""
    low, high = (plan.borders[0], plan.borders[-1]) if stage is None else plan.borders[stage : stage + 2]
    first = min(math.ceil(low), math.ceil(plan.borders[-1]) - 1)
    return first, max(first, math.ceil(high) - 1)


def _add_noise(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return √ᾱ x + √(1-ᾱ) ε as the denoiser sees it.

    The scheduler's own `add_noise` would not do: that of the Euler family knows only the timesteps of the last
    sampling run, and returns the latents before `scale_model_input`.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"DatasetSource cannot noise latents for {type(scheduler).__name__}, which has no alphas_cumprod; "
            "calibrate with SamplingSource instead."
        )
    alphas = _alphas(scheduler, clean, timesteps)
    return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise


def _target(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the model was trained to predict: ε, or the velocity √ᾱ ε - √(1-ᾱ) x."""
    kind = scheduler.config.get("prediction_type")
    if kind not in ("epsilon", "v_prediction"):
        raise InputError(
            f"The denoising loss is known for models that predict epsilon or v_prediction; {type(scheduler).__name__} "
            f"says {kind!r}. Use a pruner without gradients, such as obs or obs-diff."
        )
    if kind == "epsilon":
        return noise
    alphas = _alphas(scheduler, clean, timesteps)
    return alphas.sqrt() * noise - (1 - alphas).sqrt() * clean


def _alphas(scheduler: Any, clean: Tensor, timesteps: Tensor) -> Tensor:
    """Return ᾱ of every row, shaped to multiply latents."""
    alphas: Tensor = scheduler.alphas_cumprod.to(clean.device, clean.dtype)
    return alphas[timesteps].view(-1, *(1,) * (clean.ndim - 1))


def _call(denoiser: nn.Module, latents: Tensor, timesteps: Tensor, conditions: Conditions, guided: bool) -> Call:
    """Assemble one call on the denoiser's device, with the unconditional half where guidance is used."""
    spec = spec_of(denoiser)
    parameter = next(denoiser.parameters())
    if guided:
        without = spec.unconditional(conditions)
        conditions = {name: torch.cat([value, without[name]]) for name, value in conditions.items()}
        latents, timesteps = latents.repeat(2, 1, 1, 1), timesteps.repeat(2)
    placed = {name: value.to(parameter.device) for name, value in conditions.items()}
    return spec.call(latents.to(parameter.device, parameter.dtype), timesteps.to(parameter.device), placed)


@dataclass
class SamplingSource:
    """The inputs that the dense model meets on its own denoising trajectories; needs no data set.

    Attributes:
        requests: What to sample.
        sampler: Steps and guidance of the runs.
        batch_size: Images per run of the pipeline.
    """

    requests: Requests
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    batch_size: int = 64
    _recorded: list[tuple[float, Call]] = field(default_factory=list, init=False, repr=False)

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        """Yield the recorded calls of the stage; the first request samples them all."""
        if not self._recorded:
            for batch in self.requests.batches(self.batch_size):
                self._recorded += record_calls(pipe, batch, self.sampler)
        device = next(denoiser_of(pipe).parameters()).device
        for timestep, call in self._recorded:
            if stage is None or plan.stage_at(timestep) == stage:
                yield {name: value.to(device) if torch.is_tensor(value) else value for name, value in call.items()}


def record_calls(pipe: Any, requests: Requests, sampler: SamplerConfig) -> list[tuple[float, Call]]:
    """Sample once and return the denoiser's calls with their timesteps (train units), kept on the CPU."""
    denoiser = denoiser_of(pipe)
    spec = spec_of(denoiser)
    recorded: list[tuple[float, Call]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        names = _argument_names(denoiser)
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        kept = {name: value.cpu() if torch.is_tensor(value) else value for name, value in call.items()}
        recorded.append((spec.timestep(args, kwargs), kept))

    handle = denoiser.register_forward_pre_hook(record, with_kwargs=True)
    try:
        sample(pipe, requests, sampler)
    finally:
        handle.remove()
    return recorded


def _argument_names(denoiser: nn.Module) -> tuple[str, ...]:
    """Names of the forward arguments of the denoiser's class, in order, without self."""
    return tuple(inspect.signature(type(denoiser).forward).parameters)[1:]
