"""Calibration calls of text-to-image pipelines, against what the pipeline itself gives its denoiser.

The oracle is a real run that begins with the same noised latents at the same timestep: pipelines take `latents`, and
`timesteps` or `sigmas` of one step.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from diff_es.calibration import DatasetSource
from diff_es.calibration.noise import add_noise
from diff_es.denoisers import denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.sampling import PromptRequests, SamplerConfig
from diff_es.timesteps import stage_plan
from tiny_pipelines import flow, tiny_flux, tiny_lumina2, tiny_pixart, tiny_sd3, tiny_sdxl

PROMPTS = ("a cat", "a photo of two dogs")


@dataclass(frozen=True)
class Family:
    """A pipeline, and how it is made to begin at a timestep: the scheduler neither shifts nor scales."""

    build: Any
    scheduler: Any
    shape: tuple[int, ...]
    guidance: float
    calls_per_step: int = 1


FAMILIES = {
    "sdxl": Family(tiny_sdxl, DDPMScheduler, (4, 8, 8), 5.0),
    "sdxl without guidance": Family(tiny_sdxl, DDPMScheduler, (4, 8, 8), 1.0),
    "flux": Family(tiny_flux, flow, (4, 8, 8), 0.0),
    "flux with embedded guidance": Family(lambda *a: tiny_flux(*a, guidance=True), flow, (4, 8, 8), 3.5),
    "sd3": Family(tiny_sd3, flow, (4, 8, 8), 5.0),
    "pixart": Family(tiny_pixart, DDPMScheduler, (4, 32, 32), 4.5),
    "lumina2, two calls a step": Family(tiny_lumina2, flow, (4, 4, 4), 4.0, 2),
}


def latents_of(family: Family) -> Tensor:
    return torch.randn(len(PROMPTS), *family.shape, generator=torch.Generator().manual_seed(3))


def source_of(family: Family) -> DatasetSource:
    """One prompt per call, so that a call has a single timestep, as a pipeline's has."""
    sampler = SamplerConfig(4, family.guidance)
    return DatasetSource(latents_of(family), PromptRequests.consecutive(PROMPTS, 0), sampler, batch_size=1)


def real_calls(pipe: Any, prompt: str, noisy: Tensor, timestep: int, guidance: float) -> list[dict[str, Any]]:
    """Let the pipeline take one step from these latents at this timestep, and note its denoiser's calls."""
    denoiser, calls = denoiser_of(pipe), []
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]

    def note(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(dict(zip(names, args, strict=False)) | kwargs)

    flowing = isinstance(pipe.scheduler, type(flow()))
    step = {"sigmas": [timestep / 1000]} if flowing else {"timesteps": [timestep]}
    handle = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    pipe([prompt], latents=noisy, guidance_scale=guidance, num_inference_steps=1, output_type="latent", **step)
    handle.remove()
    return calls


def same(ours: Any, theirs: Any) -> bool:
    """Equal arguments; a timestep may come once for all rows or once for each."""
    if isinstance(theirs, Tensor):
        close = {"rtol": 1e-5, "atol": 1e-5}
        return torch.allclose(ours.double(), theirs.double().expand(ours.shape), **close)
    if isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in theirs)
    return bool(ours == theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_are_those_of_the_pipeline_at_that_timestep(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    pipe = family.build(tmp_path, family.scheduler())
    denoiser = denoiser_of(pipe)
    spec = spec_of(denoiser)
    plan = stage_plan(pipe, 2, 4)
    ours = list(source_of(family).calls(pipe, plan, 1))
    assert len(ours) == len(PROMPTS) * family.calls_per_step
    for index, prompt in enumerate(PROMPTS):
        own = ours[index * family.calls_per_step :][: family.calls_per_step]
        timestep = round(spec.timestep(denoiser, (), own[0]))
        assert plan.borders[1] <= timestep < plan.borders[2]
        noisy = own[0][spec.latents_argument][:1]
        theirs = real_calls(pipe, prompt, noisy, timestep, family.guidance)
        assert len(theirs) == len(own)
        for call, real in zip(own, theirs, strict=True):
            assert call.keys() == real.keys()
            assert [key for key in real if not same(call[key], real[key])] == []
            with torch.no_grad():
                torch.testing.assert_close(
                    denoiser(**call, **_tuple(call))[0], denoiser(**real, **_tuple(real))[0], rtol=1e-4, atol=1e-5
                )


def _tuple(call: dict[str, Any]) -> dict[str, bool]:
    return {} if "return_dict" in call else {"return_dict": False}


def test_the_latents_are_packed_as_the_pipeline_packs_them(tmp_path: Path) -> None:
    pipe = tiny_flux(tmp_path)
    family = FAMILIES["flux"]
    call = next(iter(source_of(family).calls(pipe, stage_plan(pipe, 1, 4), 0)))
    timestep = round(float(call["timestep"][0]) * 1000)
    unpacked = pipe._unpack_latents(call["hidden_states"], 16, 16, pipe.vae_scale_factor)
    clean = latents_of(family)[:1]
    noise = (unpacked - (1 - timestep / 1000) * clean) / (timestep / 1000)
    assert abs(float(noise.mean())) < 0.2 and abs(float(noise.std()) - 1) < 0.15
    again = add_noise(pipe.scheduler, clean, noise, torch.tensor([timestep]))
    torch.testing.assert_close(pipe._pack_latents(again, 1, 4, 8, 8), call["hidden_states"])


def test_batches_of_several_prompts(tmp_path: Path) -> None:
    """Guided rows come in halves, each prompt with its own conditions and its own timestep in both."""
    pipe = tiny_sdxl(tmp_path)
    family = FAMILIES["sdxl"]
    plan = stage_plan(pipe, 2, 4)
    source = source_of(family)
    singles = list(source.calls(pipe, plan, 0))
    source = DatasetSource(latents_of(family), source.requests, source.sampler, batch_size=2)
    (both,) = source.calls(pipe, plan, 0)
    assert both["timestep"].shape == (4,) and torch.equal(*both["timestep"].chunk(2))
    assert torch.equal(*both["sample"].chunk(2))
    for row, single in enumerate(singles):
        rows = [row, row + 2]
        torch.testing.assert_close(both["encoder_hidden_states"][rows], single["encoder_hidden_states"])
        for name, value in single["added_cond_kwargs"].items():
            torch.testing.assert_close(both["added_cond_kwargs"][name][rows], value)


def test_no_latents_are_kept_with_the_recorded_conditions(tmp_path: Path) -> None:
    pipe, source = tiny_sdxl(tmp_path), source_of(FAMILIES["sdxl"])
    list(source.calls(pipe, stage_plan(pipe, 2, 4), 0))
    for call in (call for calls in source._templates for call in calls):
        assert call["sample"].device.type == "meta" and call["encoder_hidden_states"].device.type == "cpu"


def test_latents_of_another_size_are_refused(tmp_path: Path) -> None:
    pipe = tiny_sdxl(tmp_path)
    source = DatasetSource(torch.zeros(1, 4, 6, 6), PromptRequests(("a cat",), (0,)), SamplerConfig(4, 5.0))
    with pytest.raises(InputError, match=r"sample of shape \(2, 4, 6, 6\), the pipeline itself \(2, 4, 8, 8\)"):
        next(iter(source.calls(pipe, stage_plan(pipe, 2, 4), 0)))
