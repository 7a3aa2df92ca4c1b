"""Another sampler in place of the pipeline's own: by name, with options, checked before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from diff_es.errors import InputError
from diff_es.schedulers import scheduler_facts, with_recorded_scheduler, with_scheduler
from diff_es.timesteps import sampler_timesteps, stage_plan
from support import tiny_pipe
from tiny_pipelines import flow, tiny_flux, tiny_sana, tiny_sd3

DPM = "DPMSolverMultistepScheduler"
#: Configurations that hold infinities, lists, and betas as numbers.
KINDS = (
    DPMSolverMultistepScheduler(use_karras_sigmas=True),
    DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
    EulerDiscreteScheduler(trained_betas=[0.1, 0.2, 0.3]),
    FlowMatchEulerDiscreteScheduler(shift=3.0),
)
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def test_the_models_are_shared_and_the_given_pipeline_keeps_its_scheduler() -> None:
    pipe = tiny_pipe()
    own = pipe.scheduler
    other = with_scheduler(pipe, DPM, {"use_karras_sigmas": True})
    assert type(other.scheduler) is DPMSolverMultistepScheduler and other.scheduler.config.use_karras_sigmas
    assert pipe.scheduler is own and pipe.config["scheduler"] != other.config["scheduler"]
    assert other.transformer is pipe.transformer and other.vae is pipe.vae


def test_it_is_what_from_config_makes() -> None:
    pipe = tiny_pipe()
    expected = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    found = with_scheduler(pipe, DPM, {"algorithm_type": "sde-dpmsolver++"}).scheduler
    assert scheduler_facts(found) == scheduler_facts(expected)
    assert scheduler_facts(found) == {"algorithm_type": "sde-dpmsolver++"}


def options(scheduler: Any) -> dict[str, Any]:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


@pytest.mark.parametrize("scheduler", KINDS, ids=lambda scheduler: type(scheduler).__name__)
def test_what_an_artefact_records_makes_the_same_scheduler_again(scheduler: Any) -> None:
    """Whatever the pipeline's own scheduler is."""
    facts = json.loads(json.dumps(scheduler_facts(scheduler), allow_nan=False))
    pipe = tiny_pipe()
    other = with_recorded_scheduler(pipe, type(scheduler).__name__, facts)
    assert type(other.scheduler) is type(scheduler)
    assert options(other.scheduler) == options(scheduler)
    assert with_recorded_scheduler(other, type(scheduler).__name__, facts) is other


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DPMSolverMultistep", {}, r"is no scheduler of diffusers.*DPMSolverMultistepScheduler"),
        ("FlaxDDIMScheduler", {}, "is no scheduler"),
        ("AutoencoderKL", {}, "is no scheduler"),
        (DPM, {"use_karras_sigma": True}, r"scheduler_options\.use_karras_sigma.*use_karras_sigmas"),
        (DPM, {"algorithm_type": "dpm"}, "algorithm_type"),
        ("DPMSolverSDEScheduler", {}, "torchsde"),
        ("FlowMatchEulerDiscreteScheduler", {}, "samples from flow models"),
        (DPM, FLOW, "samples from flow models"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_scheduler(tiny_pipe(), name, options)


def test_flow_models_are_not_sampled_as_if_they_predicted_noise(tmp_path: Path) -> None:
    pipe = tiny_sd3(tmp_path)
    with pytest.raises(InputError, match=r'add sampler\.scheduler_options: \{"prediction_type": "flow_prediction"'):
        with_scheduler(pipe, DPM, {})
    with pytest.raises(InputError, match="choose FlowMatchEulerDiscreteScheduler"):
        with_scheduler(pipe, "DDIMScheduler", {})


def test_the_shift_of_a_flow_model_is_carried_over(tmp_path: Path) -> None:
    pipe = tiny_sana(tmp_path, flow(shift=2.5))
    solver = with_scheduler(pipe, DPM, FLOW)
    assert solver.scheduler.config.flow_shift == 2.5
    assert with_scheduler(pipe, DPM, {**FLOW, "flow_shift": 4.0}).scheduler.config.flow_shift == 4.0
    back = with_scheduler(solver, "FlowMatchEulerDiscreteScheduler", {})
    assert type(back.scheduler) is FlowMatchEulerDiscreteScheduler and back.scheduler.config.shift == 2.5


def test_a_pipeline_that_hands_out_sigmas_says_what_it_does_not_take(tmp_path: Path) -> None:
    pipe = with_scheduler(tiny_flux(tmp_path), "FlowMatchHeunDiscreteScheduler", {})
    with pytest.raises(InputError, match=r"FlowMatchHeunDiscreteScheduler refuses .* in FluxPipeline"):
        stage_plan(pipe, 2, 4)
    with pytest.raises(ValueError, match="sigmas"):
        sampler_timesteps(pipe, 4)
