"""Stage plans over the steps that a pipeline really takes, and the stage that is routed at each of its calls."""

from __future__ import annotations

import copy
import functools
from itertools import groupby
from typing import Any

import pytest
import torch

from diff_es.denoisers import denoiser_of, spec_of, timestep
from diff_es.fitness import run
from diff_es.routing import apply_, routed
from pipelines.prepared import bank_of, pipe_with, plan_of, requests_of, settings_of
from pipelines.registry import PAIRS, PIPELINES, STAGES, STEPS, TinyPipeline
from pipelines.samplers import FLOW_DYNAMIC, Sampler

every_pair = pytest.mark.parametrize(
    ("own", "sampler"), PAIRS, ids=[f"{own.name}, {sampler.name}" for own, sampler in PAIRS]
)
every_pipeline = pytest.mark.parametrize("own", PIPELINES, ids=lambda own: own.name)


def calls_of(own: TinyPipeline, pipe: Any) -> list[tuple[float, int | None]]:
    """Sample once, routed: timestep and routed stage of each denoiser call."""
    bank = bank_of(own, plan_of(pipe))
    denoiser, seen = denoiser_of(pipe), []
    spec = spec_of(denoiser)
    with routed(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3))) as router:
        handle = denoiser.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((spec.timestep(module, args, kwargs), router.stage)),
            with_kwargs=True,
        )
        run(pipe, requests_of(pipe), settings_of(own), decode=False)
        handle.remove()
    return seen


@every_pair
def test_the_plan_has_the_steps_that_the_pipeline_takes(own: TinyPipeline, sampler: Sampler) -> None:
    pipe = pipe_with(own, sampler)
    plan = plan_of(pipe)
    assert len(plan.timesteps) == sampler.calls(STEPS)
    assert plan.num_stages == STAGES and min(plan.steps_per_stage) >= 1
    calls = calls_of(own, pipe)
    expected = [step for step in range(len(plan.timesteps)) for _ in range(own.calls_per_step)]
    assert [timestep for timestep, _ in calls] == pytest.approx([plan.timesteps[step] for step in expected], abs=1e-2)
    assert [stage for _, stage in calls] == [plan.stage_of_step[step] for step in expected]


@every_pipeline
def test_a_pipeline_in_half_precision_routes_by_its_steps(own: TinyPipeline) -> None:
    """Some round the timestep to the latents' type on its way to the denoiser."""
    pipe = copy.deepcopy(pipe_with(own, own.samplers[-1]))
    plan = plan_of(pipe)
    bank = bank_of(own, plan)
    stages: list[int | None] = []
    router = apply_(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3)))
    pipe.to(torch.bfloat16)
    denoiser_of(pipe).register_forward_hook(lambda *_: stages.append(router.stage))
    assert run(pipe, requests_of(pipe), settings_of(own), decode=False).latents.isfinite().all()
    assert stages == [stage for stage in plan.stage_of_step for _ in range(own.calls_per_step)]


@every_pair
def test_the_device_is_not_waited_for_from_step_to_step(
    own: TinyPipeline, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device would have to be asked for is counted here; that nothing else waits is shown in tests/gpu."""
    waits: list[float] = []

    def reading(value: torch.Tensor) -> float:
        waits.append(float(value.max()))
        return waits[-1]

    monkeypatch.setattr(timestep, "_READ_AS_THEY_ARE", ())
    monkeypatch.setattr(timestep, "_read", reading)
    pipe = pipe_with(own, sampler)
    bank = bank_of(own, plan_of(pipe))
    with routed(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3))):
        run(pipe, requests_of(pipe), settings_of(own), decode=False)
    # HunyuanDiT's pipeline itself asks the device at each step, for a timestep that it then computes anew.
    itself = own.name == "hunyuan-dit" and not hasattr(pipe.scheduler, "step_index")
    assert len(waits) == sampler.calls(STEPS) if itself else len(waits) <= own.calls_per_step


def test_half_precision_does_not_round_the_timesteps_of_a_running_pipeline() -> None:
    (flux,) = (own for own in PIPELINES if own.name == "flux")
    pipe = copy.deepcopy(pipe_with(flux, FLOW_DYNAMIC)).to(torch.bfloat16)
    plan, denoiser, seen = plan_of(pipe), denoiser_of(pipe), []
    spec = spec_of(denoiser)

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rounded = spec.units(module).to_train(float(kwargs["timestep"].max()))
        seen.append((spec.timestep(module, args, kwargs), rounded))

    denoiser.register_forward_pre_hook(note, with_kwargs=True)
    run(pipe, requests_of(pipe), settings_of(flux), decode=False)
    assert [exact for exact, _ in seen] == pytest.approx(plan.timesteps, abs=1e-3)
    assert any(abs(exact - rounded) > 0.1 for exact, rounded in seen)


@every_pipeline
def test_as_many_stages_as_steps(own: TinyPipeline) -> None:
    plan = plan_of(pipe_with(own, own.samplers[0]), STEPS)
    assert plan.steps_per_stage == (1,) * STEPS
    assert [plan.stage_at(timestep) for timestep in plan.timesteps] == [3, 2, 1, 0]


def test_a_stop_before_decoding_leaves_the_autoencoder_as_it_was() -> None:
    """SDXL's pipeline makes it a float32 one for decoding, where it is a float16 one."""
    (sdxl,) = (own for own in PIPELINES if own.name == "sdxl")
    pipe = copy.deepcopy(pipe_with(sdxl)).to(torch.float16)
    latents = run(pipe, requests_of(pipe), settings_of(sdxl), decode=False).latents
    assert pipe.vae.dtype == torch.float16
    whole = run(pipe, requests_of(pipe), settings_of(sdxl))
    assert torch.equal(whole.latents, latents)
    assert whole.images is not None and whole.images.isfinite().all()


def test_a_decode_without_memory_leaves_the_autoencoder_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    (sdxl,) = (own for own in PIPELINES if own.name == "sdxl")
    pipe = copy.deepcopy(pipe_with(sdxl)).to(torch.float16)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipe.vae, "decode", full)
    with pytest.raises(torch.OutOfMemoryError):
        run(pipe, requests_of(pipe), settings_of(sdxl))
    assert pipe.vae.dtype == torch.float16


def test_latents_are_in_the_denoisers_units() -> None:
    """Those that the denoiser was last called with come from its own space; one more step leads to the result."""
    for name in ("sd15", "flux", "sana", "qwen-image", "wan"):
        (own,) = (own for own in PIPELINES if own.name == name)
        pipe, final = pipe_with(own, own.samplers[0]), []
        step = pipe.scheduler.step

        @functools.wraps(step)
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)  # noqa: B023 (called within this turn)
            final.append(result[0])  # noqa: B023
            return result

        pipe.scheduler.step = noted
        latents = run(pipe, requests_of(pipe), settings_of(own), decode=False).latents
        del pipe.scheduler.step
        assert latents.flatten().sort().values == pytest.approx(final[-1].flatten().sort().values, rel=1e-4, abs=1e-4)


def test_consecutive_calls_of_one_step_are_two_where_guidance_takes_two_calls() -> None:
    (lumina,) = (own for own in PIPELINES if own.name == "lumina2")
    timesteps = [timestep for timestep, _ in calls_of(lumina, pipe_with(lumina, lumina.samplers[0]))]
    assert [len(list(group)) for _, group in groupby(timesteps)] == [2] * STEPS
