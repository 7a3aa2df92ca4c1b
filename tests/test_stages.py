"""Stage plans over the samplers of diffusers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan

#: diffusers' own use of numpy, nothing that a user of ours could change.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class SamplerOnly(DiffusionPipeline):
    """A diffusers pipeline that holds a scheduler and no model."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler)


def plan_of(scheduler: Any, num_stages: int, steps: int) -> StagePlan:
    return stage_plan(SamplerOnly(scheduler), num_stages, steps)


SAMPLERS = {
    "ddim leading": lambda: DDIMScheduler(timestep_spacing="leading"),
    "ddim leading offset": lambda: DDIMScheduler(timestep_spacing="leading", steps_offset=1),
    "ddim trailing": lambda: DDIMScheduler(timestep_spacing="trailing"),
    "ddim linspace": lambda: DDIMScheduler(timestep_spacing="linspace"),
    "euler karras": lambda: EulerDiscreteScheduler(use_karras_sigmas=True),
    "dpm++ karras": lambda: DPMSolverMultistepScheduler(use_karras_sigmas=True),
    "unipc": UniPCMultistepScheduler,
    "flow shift 3": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
}


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("steps", "stages"), [(20, 10), (20, 5), (50, 10), (10, 10), (20, 1)])
def test_evenly_spaced_timesteps_give_the_uniform_split_of_the_paper(spacing: str, steps: int, stages: int) -> None:
    plan = plan_of(DDIMScheduler(timestep_spacing=spacing), stages, steps)
    assert plan.borders == tuple(1000 * i / stages for i in range(stages + 1))
    assert plan.steps_per_stage == (steps // stages,) * stages
    assert plan.stage_of_step == tuple(int(t * stages // 1000) for t in plan.timesteps)


def test_four_shifted_flow_steps_fill_four_stages() -> None:
    plan = plan_of(FlowMatchEulerDiscreteScheduler(shift=3.0), 4, 4)
    uniform = [sum(250 * i <= min(t, 999) < 250 * (i + 1) for t in plan.timesteps) for i in range(4)]
    assert 0 in uniform  # what a uniform split of timesteps would do
    assert plan.stage_of_step == (3, 2, 1, 0)
    assert plan.timesteps[0] == pytest.approx(1000)
    for border, (high, low) in zip(plan.borders[-2:0:-1], pairwise(plan.timesteps), strict=True):
        assert border == (high + low) / 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_lies_in_its_stage_and_within_its_borders(sampler: str) -> None:
    scheduler = SAMPLERS[sampler]()
    for steps in range(4, 101):
        for stages in (2, 4, 5, 10):
            if stages > steps:
                continue
            plan = plan_of(scheduler, stages, steps)
            assert max(plan.steps_per_stage) - min(plan.steps_per_stage) <= 1
            for t, stage in zip(plan.timesteps, plan.stage_of_step, strict=True):
                assert plan.stage_at(t) == stage
                within = max(t, 0.0)  # diffusers' trailing DDIM rounds its last timestep to −1 at some step counts
                assert plan.borders[stage] <= within < plan.borders[stage + 1] or t == plan.borders[-1] == 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rounded_timesteps_lie_in_the_right_stage(sampler: str, dtype: torch.dtype) -> None:
    """Where the two steps at a border are further apart than twice the rounding, no step changes its stage."""
    scheduler = SAMPLERS[sampler]()
    checked = 0
    for steps in range(4, 101):
        for stages in (2, 4, 5, 10):
            if stages > steps:
                continue
            plan = plan_of(scheduler, stages, steps)
            exact = torch.tensor(plan.timesteps, dtype=torch.float64)
            gaps = exact[:-1] - exact[1:]
            nearest = torch.minimum(torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]]))
            plain = exact.to(dtype).double()
            scaled = (exact.to(dtype) / 1000).double() * 1000  # FLUX hands t/1000 to its denoiser
            for reached in (plain, scaled):
                apart = 2 * (reached - exact).abs() < nearest
                checked += int(apart.sum())
                wrong = [plan.stage_at(t) != s for t, s in zip(reached.tolist(), plan.stage_of_step, strict=True)]
                assert not (torch.tensor(wrong) & apart).any()
    assert checked > 20_000


def test_bfloat16_timesteps_scaled_as_in_flux_keep_their_stage() -> None:
    """Over 4 to 100 evenly spaced steps; by its borders alone a plan would misplace dozens of them."""
    missed, by_borders = dict.fromkeys((2, 4, 5, 10), 0), 0
    for steps in range(4, 101):
        for stages in missed:
            if stages > steps:
                continue
            plan = plan_of(DDIMScheduler(timestep_spacing="trailing"), stages, steps)
            reached = (torch.tensor(plan.timesteps).to(torch.bfloat16) / 1000).double() * 1000
            for t, stage in zip(reached.tolist(), plan.stage_of_step, strict=True):
                missed[stages] += plan.stage_at(t) != stage
                by_borders += not plan.borders[stage] <= min(max(t, 0), 999) < plan.borders[stage + 1]
    assert missed[2] == missed[4] == missed[5] == 0
    assert missed[10] <= 5
    assert by_borders > 50


@pytest.mark.parametrize("scheduler", [HeunDiscreteScheduler(), PNDMScheduler(skip_prk_steps=True)])
def test_a_timestep_that_a_sampler_visits_twice_has_one_stage(scheduler: Any) -> None:
    plan = plan_of(scheduler, 5, 20)
    assert len(set(plan.timesteps)) < len(plan.timesteps)
    assert [plan.stage_at(t) for t in plan.timesteps] == list(plan.stage_of_step)


def test_more_stages_than_steps_is_an_error() -> None:
    with pytest.raises(InputError, match=r"num_stages=5 does not fit a sampler of 4 steps.*Use 1 to 4 stages"):
        plan_of(DDIMScheduler(), 5, 4)
    with pytest.raises(InputError, match="num_stages=0"):
        plan_of(DDIMScheduler(), 0, 4)


def test_a_repeated_timestep_that_empties_a_stage_is_an_error() -> None:
    with pytest.raises(InputError, match=r"Stages \[1\] contain no sampler step"):
        plan_of(PNDMScheduler(skip_prk_steps=True), 4, 3)


def test_a_step_count_that_the_scheduler_refuses_is_an_error() -> None:
    with pytest.raises(InputError, match="LCMScheduler refuses num_inference_steps=51"):
        plan_of(LCMScheduler(), 4, 51)


def test_ascending_timesteps_are_an_error() -> None:
    with pytest.raises(InputError, match="do not descend"):
        plan_of(DDIMInverted(), 2, 4)


class DDIMInverted(DDIMScheduler):
    """A sampler that runs from image to noise."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps.flip(0)


def test_the_pipeline_is_not_touched() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(7)
    plan_of(scheduler, 2, 20)
    assert len(scheduler.timesteps) == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((900.0, 100.0), (1,), (0.0, 500.0, 1000.0)), "as many entries"),
        (((), (), (0.0, 1000.0)), "at least one"),
        (((900.0, 100.0), (1, 0), (0.0, 500.0, 500.0)), "ascend strictly"),
        (((900.0, 800.0), (1, 1), (0.0, 500.0, 1000.0)), r"Stages \[0\] contain no sampler step"),
        (((900.0, 100.0), (0, 1), (0.0, 500.0, 1000.0)), "must not increase"),
    ],
)
def test_an_impossible_plan_is_refused(fields: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StagePlan(*fields)


@given(st.sets(st.integers(0, 999), min_size=1, max_size=60), st.data())
def test_any_descending_timesteps_split_evenly(drawn: set[int], data: st.DataObject) -> None:
    timesteps = tuple(float(t) for t in sorted(drawn, reverse=True))
    stages = data.draw(st.integers(1, len(timesteps)))
    plan = StagePlan.split(timesteps, stages)
    assert plan.num_stages == stages
    assert sum(plan.steps_per_stage) == len(timesteps)
    assert max(plan.steps_per_stage) - min(plan.steps_per_stage) <= 1
    assert [plan.stage_at(t) for t in timesteps] == list(plan.stage_of_step)
