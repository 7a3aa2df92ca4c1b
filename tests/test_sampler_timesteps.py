"""The steps that a pipeline really takes, found without running its denoiser; stages over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler

from diff_es.calibration import record_calls
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError
from diff_es.sampling import SamplerConfig, any_requests
from diff_es.timesteps import sampler_timesteps, stage_plan
from support import tiny_pipe
from tiny_pipelines import BUILDERS, flow, tiny_flux, tiny_sd3, tiny_sdxl


def visited(pipe: Any, steps: int) -> list[float]:
    """What reaches the denoiser while the pipeline really samples, each timestep once."""
    calls = record_calls(pipe, any_requests(pipe, 1), SamplerConfig(steps, 4.0))
    return list(dict.fromkeys(timestep for timestep, _ in calls))


SHIFTED = {
    "flux, shift 3": lambda folder: tiny_flux(folder, flow(shift=3.0)),
    "flux, dynamic shift": lambda folder: tiny_flux(folder, flow(shift=3.0, use_dynamic_shifting=True)),
    "sd3, dynamic shift": lambda folder: tiny_sd3(folder, flow(use_dynamic_shifting=True)),
    "sdxl, Karras": lambda folder: tiny_sdxl(folder, DPMSolverMultistepScheduler(use_karras_sigmas=True)),
    "sdxl, Heun": lambda folder: tiny_sdxl(folder, HeunDiscreteScheduler()),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("build", [*BUILDERS.values(), *SHIFTED.values()], ids=[*BUILDERS, *SHIFTED])
def test_they_are_those_that_reach_the_denoiser(tmp_path: Path, build: Any) -> None:
    pipe = build(tmp_path)
    foreseen = list(dict.fromkeys(sampler_timesteps(pipe, 4)))
    assert foreseen == pytest.approx(visited(pipe, 4), abs=1e-3) and len(foreseen) == 4


def test_the_schedulers_own_steps_would_be_others(tmp_path: Path) -> None:
    scheduler = flow()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == pytest.approx([1000, 667, 334, 1], abs=0.5)
    assert sampler_timesteps(tiny_flux(tmp_path), 4) == (1000.0, 750.0, 500.0, 250.0)


@pytest.mark.parametrize("build", [tiny_flux, tiny_sdxl, lambda _: tiny_pipe()], ids=["flux", "sdxl", "dit"])
def test_nothing_is_changed(tmp_path: Path, build: Any) -> None:
    """Neither the scheduler nor the global generator; and the denoiser is not called."""
    pipe = build(tmp_path)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(7)
    before = dict(pipe.config)
    denoiser_of(pipe).register_forward_pre_hook(lambda *_: pytest.fail("the denoiser ran"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sampler_timesteps(pipe, 4)
    assert torch.equal(torch.rand(3), expected)
    assert pipe.scheduler is scheduler and len(scheduler.timesteps) == 7
    assert "set_timesteps" not in vars(scheduler) and dict(pipe.config) == before


def test_the_scheduler_comes_back_after_an_error(tmp_path: Path) -> None:
    pipe = tiny_sdxl(tmp_path)
    scheduler, tokenizer = pipe.scheduler, pipe.tokenizer
    pipe.tokenizer = None
    with pytest.raises(Exception, match="NoneType"):
        sampler_timesteps(pipe, 4)
    assert pipe.scheduler is scheduler
    pipe.tokenizer = tokenizer
    assert len(sampler_timesteps(pipe, 4)) == 4


@pytest.mark.parametrize(
    ("settings", "timesteps"),
    [
        ({}, (1000, 750, 500, 250)),
        ({"shift": 3.0}, (1000, 900, 750, 500)),
    ],
)
def test_four_steps_of_flux_make_four_stages(
    tmp_path: Path, settings: dict[str, float], timesteps: tuple[float, ...]
) -> None:
    """A uniform split of the timesteps would leave stages empty under the shift."""
    plan = stage_plan(tiny_flux(tmp_path, flow(**settings)), 4, 4)
    assert plan.timesteps == pytest.approx(timesteps)
    assert plan.steps_per_stage == (1, 1, 1, 1)
    assert [plan.stage_at(timestep) for timestep in plan.timesteps] == [3, 2, 1, 0]


def test_more_stages_than_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_stages=5 does not fit a sampler of 4 steps"):
        stage_plan(tiny_flux(tmp_path), 5, 4)


@pytest.mark.parametrize("argument", ["denoising_end", "denoising_start", "strength"])
def test_arguments_that_leave_steps_out_are_refused(tmp_path: Path, argument: str) -> None:
    """The budget would count steps that are never made."""
    with pytest.raises(
        InputError, match=rf"has {argument}, which leaves out steps.*: plan, calibrate and search without"
    ):
        stage_plan(tiny_sdxl(tmp_path), 3, 6, {argument: 0.5})


def test_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="num_inference_steps=0 must be at least 1"):
        stage_plan(tiny_pipe(), 1, 0)
