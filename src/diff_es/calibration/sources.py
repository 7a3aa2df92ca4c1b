"""Where calibration inputs come from: noised images of a data set, or the dense model's own sampling runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from diff_es.calibration.noise import add_noise, check_process, prediction_target
from diff_es.denoisers import Call, denoiser_of, each_tensor, named_call, num_rows, on_device, spec_of
from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.sampling import ImageRequests, SamplerConfig, at_decoding, sample, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.denoisers import DenoiserSpec
    from diff_es.stages import StagePlan


class CalibrationSource(Protocol):
    """Gives the denoiser calls that stand for a stage; asked twice, it gives the same calls."""

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        """Yield the calls of one stage, or of all timesteps when `stage` is None (shared calibration)."""


@runtime_checkable
class TargetSource(Protocol):
    """Knows the clean latents behind its calls, and so what the denoiser should predict."""

    def targets(self, pipe: Any, timestep: float) -> Iterator[tuple[Call, Tensor]]:
        """Yield calls at one timestep, each with the output of least loss, (rows, C, h, w); repeatable."""


@runtime_checkable
class CountedSource(Protocol):
    """Knows how many calls it yields, once it has yielded the first."""

    def num_calls(self, plan: StagePlan, stage: int | None) -> int:
        """Return the number of calls of a stage, or of all timesteps."""


@runtime_checkable
class LiveSource(Protocol):
    """Meets its calls while the pipeline samples, so that statistics can be collected at that very moment."""

    def run(self, pipe: Any, enter: Callable[[float], bool]) -> None:
        """Sample everything once.

        Args:
            pipe: The dense pipeline.
            enter: Hears the timestep of each call (train units) before it runs; whether `calls` will want it.
        """

    def first_calls(self, pipe: Any, plan: StagePlan) -> list[Call]:
        """Return the first call of every stage, as `calls` would yield it, without sampling everything."""


@dataclass
class DatasetSource:
    """SNR-aware calibration (paper §3.3): clean latents, noised to a timestep drawn inside the stage.

    What else the denoiser takes (text or label embeddings, sizes, position ids, the unconditional half of guidance) is
    what the pipeline itself gives it for these labels or prompts: the first step of a sampling run is recorded once per
    batch, and its latents and timestep are replaced.

    The recorded calls of all batches stay in host memory, without their latents: text embeddings above all, which take
    1 MB for each guided image of SDXL and 4 MB for each of FLUX (half precision, 512 tokens).

    Attributes:
        latents: Clean latents in the units of the model, shape (N, C, h, w).
        requests: Their labels or prompts, N; the seeds do not matter.
        sampler: Steps and guidance; without guidance there is no unconditional half.
        batch_size: Latents per call (a guided call may have twice as many rows).
        seed: Of the timesteps and the noise.
    """

    latents: Tensor
    requests: ImageRequests
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    batch_size: int = 64
    seed: int = 0
    _templates: list[list[Call]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.latents) or len(self.latents) != len(self.requests):
            raise InputError(
                f"DatasetSource has {len(self.latents)} latents and {len(self.requests)} labels or prompts: "
                "calibration needs one each of at least one image."
            )

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        """Yield the calls of ceil(N / batch_size) batches with fresh noise for every latent."""
        generator = seeded(self.seed, plan.num_stages if stage is None else stage)
        first, last = _timesteps_inside(plan, stage)
        for clean, templates in self._batches(pipe):
            timesteps = torch.randint(first, last + 1, (len(clean),), generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            noisy = add_noise(pipe.scheduler, clean, noise, timesteps)
            for template in templates:
                yield _filled(denoiser_of(pipe), template, noisy, timesteps)

    def num_calls(self, plan: StagePlan, stage: int | None) -> int:  # noqa: ARG002 (every stage has as many)
        """Return the number of calls of a stage; 0 before the first is made."""
        return sum(len(templates) for templates in self._templates)

    def targets(self, pipe: Any, timestep: float) -> Iterator[tuple[Call, Tensor]]:
        """Yield calls at one timestep, each with what the denoiser should predict there.

        The noise depends on the seed and the timestep alone. Guided calls have the same target in both halves.

        Args:
            pipe: Gives the noise schedule, and whether the model predicts the noise or the velocity.
            timestep: In train units; rounded to a whole one.

        Raises:
            InputError: the model predicts something else.
        """
        denoiser = denoiser_of(pipe)
        pack = _pack(denoiser)
        whole = min(round(timestep), int(pipe.scheduler.config.num_train_timesteps) - 1)
        # One entry more than the keys of `calls`, so that the two never share a stream.
        generator = seeded(self.seed, whole, 0)
        for clean, templates in self._batches(pipe):
            timesteps = torch.full((len(clean),), whole)
            noise = torch.randn(clean.shape, generator=generator)
            target = pack(prediction_target(pipe.scheduler, clean, noise, timesteps))
            noisy = add_noise(pipe.scheduler, clean, noise, timesteps)
            for template in templates:
                call = _filled(denoiser, template, noisy, timesteps)
                yield call, _repeated(target, num_rows(spec_of(denoiser), call))

    def _batches(self, pipe: Any) -> Iterator[tuple[Tensor, list[Call]]]:
        """Yield latents with the calls of the pipeline's first step, all of them recorded before the first."""
        check_process(pipe.scheduler)
        if not self._templates:
            batches: list[ImageRequests] = list(self.requests.batches(self.batch_size))
            spec = spec_of(denoiser_of(pipe))
            self._templates = [
                [_without_latents(spec, call) for call in first_step(pipe, batch, self.sampler)]
                for batch in track(batches, "Recording conditions")
            ]
        yield from zip(torch.split(self.latents, self.batch_size), self._templates, strict=True)


def first_step(pipe: Any, requests: ImageRequests, sampler: SamplerConfig) -> list[Call]:
    """Return the denoiser's calls of the first step: one, or two where guidance calls it twice; on the CPU."""
    recorded = record_calls(pipe, requests, sampler, only_first_step=True)
    return [call for _, call in recorded]


def _pack(denoiser: nn.Module) -> Callable[[Tensor], Tensor]:
    spec = spec_of(denoiser)
    if spec.pack is None:
        raise InputError(
            f"calibration.source=dataset is not known for {spec.architecture}, which takes something else than the "
            "latents of still images: use source: sampling."
        )
    return spec.pack


def _without_latents(spec: DenoiserSpec, call: Call) -> Call:
    """Keep of the latents their shape alone: they will be replaced."""
    return {**call, spec.latents_argument: call[spec.latents_argument].to("meta")}


def _filled(denoiser: nn.Module, template: Call, noisy: Tensor, timesteps: Tensor) -> Call:
    """Put noised latents into a recorded call, on the denoiser's device."""
    spec = spec_of(denoiser)
    parameter = next(denoiser.parameters())
    rows = num_rows(spec, template)
    latents = _repeated(_pack(denoiser)(noisy), rows).to(parameter.dtype)
    wanted = template[spec.latents_argument].shape
    if latents.shape != wanted:
        raise InputError(
            f"DatasetSource.latents give the denoiser {spec.latents_argument} of shape {tuple(latents.shape)}, the "
            f"pipeline itself {tuple(wanted)}: encode images of the size that it makes, or use source: sampling."
        )
    recorded = template[spec.timestep_argument]
    units = spec.units(denoiser).from_train(_repeated(timesteps, rows))
    call = {**template, spec.latents_argument: latents, spec.timestep_argument: units.to(recorded.dtype)}
    return on_device(call, parameter.device)


def _repeated(tensor: Tensor, rows: int) -> Tensor:
    """Repeat samples for the halves of a guided call."""
    return tensor.repeat(rows // len(tensor), *(1,) * (tensor.ndim - 1))


def _timesteps_inside(plan: StagePlan, stage: int | None) -> tuple[int, int]:
    """First and last whole timestep of a stage; of one too narrow to hold any, the one next to it."""
    low, high = (plan.borders[0], plan.borders[-1]) if stage is None else plan.borders[stage : stage + 2]
    first = min(math.ceil(low), math.ceil(plan.borders[-1]) - 1)
    return first, max(first, math.ceil(high) - 1)


@dataclass
class SamplingSource:
    """The inputs that the dense model meets on its own denoising trajectories; needs no data set.

    Attributes:
        requests: What to sample.
        sampler: Steps and guidance of the runs.
        batch_size: Images per run of the pipeline.
    """

    requests: ImageRequests
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    batch_size: int = 64
    _recorded: list[tuple[float, Call]] = field(default_factory=list, init=False, repr=False)
    #: Timesteps whose calls a run did not keep; None before the first run.
    _left_out: set[float] | None = field(default=None, init=False, repr=False)

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[Call]:
        """Yield the calls of the stage; those that no run has kept yet are sampled first, all stages together."""
        if self._left_out is None or any(_lies_in(plan, stage, timestep) for timestep in self._left_out):
            self.run(pipe, lambda _: True)
        device = next(denoiser_of(pipe).parameters()).device
        for timestep, call in self._recorded:
            if _lies_in(plan, stage, timestep):
                yield on_device(call, device)

    def num_calls(self, plan: StagePlan, stage: int | None) -> int:
        """Return the number of calls of a stage that are kept."""
        return sum(_lies_in(plan, stage, timestep) for timestep, _ in self._recorded)

    def run(self, pipe: Any, enter: Callable[[float], bool]) -> None:
        """Sample everything once; the calls that `enter` asks for replace those that were kept."""
        self._recorded, left_out = [], set[float]()

        def wanted(timestep: float) -> bool:
            keep = enter(timestep)
            if not keep:
                left_out.add(timestep)
            return keep

        batches: list[ImageRequests] = list(self.requests.batches(self.batch_size))
        for batch in track(batches, "Sampling calibration runs"):
            self._recorded += record_calls(pipe, batch, self.sampler, wanted=wanted)
        self._left_out = left_out

    def first_calls(self, pipe: Any, plan: StagePlan) -> list[Call]:
        """Return the first call of every stage, from what is kept or else from one batch.

        Raises:
            InputError: a stage has none.
        """
        known = self._recorded
        if self._left_out is None or self._left_out:
            known = self._first_of_each_stage(pipe, plan)
        device = next(denoiser_of(pipe).parameters()).device
        first = {plan.stage_at(timestep): call for timestep, call in reversed(known)}
        for stage in range(plan.num_stages):
            if stage not in first:
                raise InputError(f"The calibration source has no denoiser call in stage {stage} of the bank.")
        return [on_device(first[stage], device) for stage in range(plan.num_stages)]

    def _first_of_each_stage(self, pipe: Any, plan: StagePlan) -> list[tuple[float, Call]]:
        met: set[int] = set()

        def is_first(timestep: float) -> bool:
            stage = plan.stage_at(timestep)
            new = stage not in met
            met.add(stage)
            return new

        batches: list[ImageRequests] = list(self.requests.batches(self.batch_size))
        return record_calls(pipe, batches[0], self.sampler, wanted=is_first)


def _lies_in(plan: StagePlan, stage: int | None, timestep: float) -> bool:
    return stage is None or plan.stage_at(timestep) == stage


def _every(_: float) -> bool:
    return True


def record_calls(
    pipe: Any,
    requests: ImageRequests,
    sampler: SamplerConfig,
    *,
    only_first_step: bool = False,
    wanted: Callable[[float], bool] = _every,
) -> list[tuple[float, Call]]:
    """Sample once and return the denoiser's calls with their timesteps (train units), kept on the CPU.

    The pipeline is left before it decodes: nobody looks at the images.

    Args:
        pipe: The pipeline; it is called as it is.
        requests: What to sample.
        sampler: Steps and guidance.
        only_first_step: Stop where the second step begins.
        wanted: Asked with the timestep of each call before it runs; the others are not kept.
    """
    denoiser = denoiser_of(pipe)
    spec = spec_of(denoiser)
    recorded: list[tuple[float, Call]] = []
    copied = Copies("cpu")

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        timestep = spec.timestep(denoiser, args, kwargs)
        if only_first_step and recorded and recorded[0][0] != timestep:
            raise _Enough
        if not wanted(timestep):
            return
        recorded.append((timestep, each_tensor(named_call(denoiser, args, kwargs), copied)))

    def leave(_: Tensor) -> None:
        raise _Enough

    handle = denoiser.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with at_decoding(pipe, leave):
            sample(pipe, requests, sampler)
    except _Enough:
        pipe.maybe_free_model_hooks()
    finally:
        handle.remove()
    return recorded


class Copies:
    """Copies of tensors on a device. One that comes again unchanged, as a text embedding does at each step, has one."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._known: MutableMapping[Tensor, tuple[int, Tensor]] = WeakTensorKeyDictionary()

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the copy."""
        if tensor.is_inference():  # nothing tells whether it was changed
            return tensor.to(self.device, copy=True)
        version, copy = self._known.get(tensor, (-1, tensor))
        if version != tensor._version:
            copy = tensor.to(self.device, copy=True)
            self._known[tensor] = tensor._version, copy
        return copy


class _Enough(Exception):  # noqa: N818 (ends a run early, no error)
    """Leaves the pipeline after its first step, or its last."""
