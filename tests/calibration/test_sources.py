"""Where calibration inputs come from."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from diff_es.calibration import CalibrationConfig, DatasetSource, SamplingSource, calibrate, record_calls
from diff_es.calibration.noise import add_noise, prediction_target
from diff_es.calibration.sources import Copies
from diff_es.errors import InputError
from diff_es.sampling import Requests, SamplerConfig, any_requests, sample
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan
from support import PLAN, REQUESTS, SAMPLER, tiny_pipe, tiny_source
from tiny_pipelines import tiny_sdxl


@pytest.fixture
def pipe() -> DiTPipeline:
    return tiny_pipe()


def equal_calls(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("num_stages", [1, 3, 6])
def test_timesteps_lie_inside_their_stage(pipe: DiTPipeline, num_stages: int) -> None:
    plan = stage_plan(pipe, num_stages, 6)
    for stage in range(num_stages):
        drawn = torch.cat([call["timestep"] for call in tiny_source(40).calls(pipe, plan, stage)])
        low, high = plan.borders[stage : stage + 2]
        assert bool(((drawn >= low) & (drawn < high)).all())
        assert len(drawn.unique()) > 5
        assert drawn.max() < 1000


def test_fractional_borders_are_kept_too(pipe: DiTPipeline) -> None:
    """Karras sigmas give borders between whole timesteps; the lowest stages are narrow."""
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    plan = stage_plan(pipe, 10, 10)
    assert any(border % 1 for border in plan.borders)
    for stage in range(10):
        low, high = plan.borders[stage : stage + 2]
        drawn = torch.cat([call["timestep"] for call in tiny_source(40).calls(pipe, plan, stage)])
        assert bool(((drawn >= low) & (drawn < high)).all()), (stage, low, high)


def test_a_stage_too_narrow_for_a_whole_timestep_takes_its_neighbour(pipe: DiTPipeline) -> None:
    plan = StagePlan.split((900.0, 12.7, 12.2, 12.1), 4)
    drawn = torch.cat([call["timestep"] for call in tiny_source().calls(pipe, plan, 1)])
    assert drawn.unique().tolist() == [13]


def test_guided_batches_hold_both_halves(pipe: DiTPipeline) -> None:
    source = tiny_source(12)
    calls = list(source.calls(pipe, PLAN, 1))
    assert [len(call["hidden_states"]) for call in calls] == [16, 8]
    for call, labels in zip(calls, torch.arange(12).remainder(10).split(8), strict=True):
        first, second = (tensor.chunk(2) for tensor in (call["hidden_states"], call["timestep"]))
        assert torch.equal(*first)
        assert torch.equal(*second)
        conditional, unconditional = call["class_labels"].chunk(2)
        assert torch.equal(conditional, labels)
        assert unconditional.tolist() == [1000] * len(labels)
    assert pipe.transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.num_embeddings == 1001


def test_unguided_batches_hold_the_conditions_only(pipe: DiTPipeline) -> None:
    calls = list(tiny_source(12, guided=False).calls(pipe, PLAN, 1))
    assert [len(call["hidden_states"]) for call in calls] == [8, 4]
    assert torch.cat([call["class_labels"] for call in calls]).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_calls_are_repeatable_and_depend_on_seed_and_stage(pipe: DiTPipeline) -> None:
    source = tiny_source()
    first = list(source.calls(pipe, PLAN, 1))
    sample(pipe, REQUESTS, SAMPLER)  # scrambles the scheduler and, were it used, the global generator
    assert equal_calls(first, list(source.calls(pipe, PLAN, 1)))
    assert not equal_calls(first, list(tiny_source(seed=1).calls(pipe, PLAN, 1)))
    assert not equal_calls(first, list(source.calls(pipe, PLAN, 0)))


def test_shared_calibration_draws_from_all_timesteps(pipe: DiTPipeline) -> None:
    drawn = torch.cat([call["timestep"] for call in tiny_source(400, guided=False).calls(pipe, PLAN, None)])
    assert drawn.min() < 50
    assert 950 < drawn.max() < 1000
    counts = torch.histc(drawn.float(), bins=4, min=0, max=1000)
    assert bool((counts > 60).all())


SCHEDULERS = (DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler)


def clean_and_noise(pipe: DiTPipeline, source: DatasetSource, call: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Recover the noise of a call from the forward process in float64."""
    alphas = pipe.scheduler.alphas_cumprod.double()[call["timestep"]].view(-1, 1, 1, 1)
    clean = source.latents.double()
    return clean, (call["hidden_states"].double() - alphas.sqrt() * clean) / (1 - alphas).sqrt()


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_noise_is_added_as_the_denoiser_meets_it(pipe: DiTPipeline, kind: type[Any]) -> None:
    """Any scheduler of one noise schedule gives the same inputs, before and after it has sampled.

    For DDPM they equal its own `add_noise`; for Euler `add_noise` followed by `scale_model_input`.
    """
    source = tiny_source(64, guided=False, batch_size=64)
    reference = next(source.calls(pipe, PLAN, 2))
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    before = next(source.calls(pipe, PLAN, 2))
    sample(pipe, REQUESTS, SAMPLER)
    after = next(source.calls(pipe, PLAN, 2))
    assert equal_calls([reference, reference], [before, after])
    noise = clean_and_noise(pipe, source, after)[1]
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.05
    own = DDPMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(
        after["hidden_states"], own.add_noise(source.latents, noise.float(), after["timestep"]), rtol=1e-5, atol=1e-5
    )
    if kind is EulerDiscreteScheduler:
        euler = kind.from_config(pipe.scheduler.config)
        for row, t in enumerate(after["timestep"][:4]):
            noisy = euler.add_noise(source.latents[row : row + 1], noise[row : row + 1].float(), t[None])
            euler._step_index = None
            scaled = euler.scale_model_input(noisy, t)
            torch.testing.assert_close(after["hidden_states"][row : row + 1], scaled, rtol=1e-4, atol=1e-4)


def test_a_scheduler_of_another_kind_is_refused(pipe: DiTPipeline) -> None:
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(InputError, match=r"EDMEulerScheduler.*SamplingSource"):
        next(tiny_source().calls(pipe, PLAN, 0))


def test_the_noise_of_a_flow_lies_on_the_straight_line() -> None:
    """As diffusers' own flow scheduler has it, at the timesteps of its sampling run."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    clean, noise = torch.randn(2, 8, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = scheduler.scale_noise(clean, scheduler.timesteps, noise)
    torch.testing.assert_close(add_noise(scheduler, clean, noise, scheduler.timesteps), expected)
    torch.testing.assert_close(prediction_target(scheduler, clean, noise, scheduler.timesteps), noise - clean)


def test_every_latent_needs_a_label_or_prompt() -> None:
    with pytest.raises(InputError, match="0 latents and 1 labels or prompts"):
        DatasetSource(torch.empty(0, 4, 4, 4), Requests((0,), (0,)))
    with pytest.raises(InputError, match="3 latents and 2 labels or prompts"):
        DatasetSource(torch.zeros(3, 4, 4, 4), Requests((0, 1), (0, 1)))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_sampling_source_gives_the_dense_calls_stage_by_stage(pipe: DiTPipeline, guidance: float) -> None:
    sampler = SamplerConfig(6, guidance)
    requests = Requests.cycle(range(10), 3, 5)
    seen: list[dict[str, Any]] = []
    names = list(inspect.signature(type(pipe.transformer).forward).parameters)[1:]

    def note(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = dict(zip(names, args, strict=False)) | kwargs
        seen.append({name: value.clone() for name, value in call.items()})

    handle = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    for batch in requests.batches(2):
        sample(pipe, batch, sampler)
    handle.remove()
    source = SamplingSource(requests, sampler, batch_size=2)
    everything = list(source.calls(pipe, PLAN, None))
    assert equal_calls(everything, seen)
    assert len(everything) == 2 * 6
    by_stage = [list(source.calls(pipe, PLAN, stage)) for stage in range(3)]
    for stage, calls in enumerate(by_stage):
        own = [call for call in seen if PLAN.stage_at(float(call["timestep"][0])) == stage]
        assert len(own) == 2 * 2
        assert equal_calls(calls, own)
    assert all(len(call["hidden_states"]) == (2, 1)[k >= 6] * (2 if guidance > 1 else 1) for k, call in enumerate(seen))


def test_recorded_calls_carry_train_timesteps_and_repeat_the_output(pipe: DiTPipeline) -> None:
    outputs: list[Tensor] = []
    handle = pipe.transformer.register_forward_hook(lambda *args: outputs.append(args[-1].sample))
    recorded = record_calls(pipe, REQUESTS, SAMPLER)
    handle.remove()
    assert [timestep for timestep, _ in recorded] == list(PLAN.timesteps)
    with torch.no_grad():
        for (_, call), output in zip(recorded, outputs, strict=True):
            assert torch.equal(pipe.transformer(**call).sample, output)
    assert not pipe.transformer._forward_pre_hooks


def test_nothing_is_decoded_for_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipe()
    decoded: list[Tensor] = []
    monkeypatch.setattr(pipe.vae, "decode", decoded.append)
    own = pipe.vae.decode
    assert len(record_calls(pipe, REQUESTS, SAMPLER)) == len(PLAN.timesteps)
    assert not decoded and pipe.vae.decode == own


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tensor_that_comes_again_unchanged_is_copied_once(device: str) -> None:
    copied = Copies(device)
    embeddings, latents = torch.zeros(2, 3), torch.zeros(4)
    first = copied(embeddings), copied(latents)
    latents += 1
    again = copied(embeddings), copied(latents)
    assert first[0] is again[0]
    assert first[1] is not again[1] and again[1] is copied(latents)
    with torch.inference_mode():
        inferred = torch.zeros(2)
    assert copied(inferred) is not copied(inferred), "it keeps no count of its changes"


@pytest.mark.parametrize("inferring", [False, True])
def test_what_is_written_to_a_tensor_later_does_not_reach_its_copy(inferring: bool) -> None:
    with torch.inference_mode(inferring):
        latents = torch.zeros(4)
        kept = Copies("cpu")(latents)
        latents += 1
        assert kept.tolist() == [0.0] * 4


def test_a_recorded_call_stays_as_it_was_made() -> None:
    """Also where latents are denoised in place."""
    pipe = tiny_pipe()
    seen: list[Tensor] = []

    def look(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0].clone())

    def write(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        args[0].mul_(0.5)

    pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    pipe.transformer.register_forward_hook(write, with_kwargs=True)
    recorded = record_calls(pipe, REQUESTS, SAMPLER)
    assert all(torch.equal(call["hidden_states"], own) for (_, call), own in zip(recorded, seen, strict=True))


def test_text_embeddings_of_all_steps_are_one_copy(tmp_path: Path) -> None:
    pipe = tiny_sdxl(tmp_path)
    calls = [call for _, call in record_calls(pipe, any_requests(pipe, 2), SAMPLER)]
    assert len({id(call["encoder_hidden_states"]) for call in calls}) == 1
    assert len({id(call["sample"]) for call in calls}) == len(calls) > 1


def test_the_sampling_itself_is_not_counted() -> None:
    """A fresh source samples at the first call that it is asked for; its statistics equal those of a recorded one."""
    pipe = tiny_pipe()
    fresh, recorded = (SamplingSource(REQUESTS, SAMPLER) for _ in range(2))
    next(iter(recorded.calls(pipe, PLAN, None)))
    first, second = (calibrate(pipe, source, CalibrationConfig(PLAN)) for source in (fresh, recorded))
    for ours, theirs in zip(first.sets, second.sets, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
