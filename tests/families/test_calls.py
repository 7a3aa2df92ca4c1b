"""How a family's pipeline calls its denoiser: the timestep, its rounding, rows of a call, packed latents."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, PixArtTransformer2DModel

from diff_es.denoisers import Call, num_rows, output_of, pixart, spec_of, take_rows, wan
from diff_es.denoisers.flux import packed
from diff_es.errors import UnsupportedModelError
from diff_es.routing import routed
from diff_es.stages import StagePlan
from families.contract import contract
from families.family import Family, cast, noise, output
from families.prepared import bank_of, denoiser_in, level
from support import PLAN

#: 20 steps of a flow sampler whose shift is 3, as SD3 takes them: narrow stages near pure noise.
SHIFTED = tuple(1000 * 3 * s / (1 + 2 * s) for s in (1 - step / 20 for step in range(20)))


def as_passed(family: Family, call: Call) -> tuple[tuple[Any, ...], Call]:
    """The arguments as the pipeline gives them: the first ones by position where it does so."""
    names = list(call)
    return tuple(call[name] for name in names[: family.positional]), {
        name: call[name] for name in names[family.positional :]
    }


@contract
def test_the_timestep_is_read_in_train_units(family: Family) -> None:
    model = family.model()
    for timestep in (1000.0, 999.0, 500.0, 1.0, 0.0):
        arguments = as_passed(family, family.call(timestep))
        assert spec_of(model).timestep(model, *arguments) == pytest.approx(timestep, abs=1e-3)


@contract
def test_arguments_by_position_are_read_as_by_name(family: Family) -> None:
    """Outside a pipeline anyone may call the denoiser, with as many arguments by position as it takes."""
    model, call = family.model(), family.call(500.0)
    bound = inspect.signature(model.forward).bind(**call)
    bound.apply_defaults()
    assert spec_of(model).timestep(model, bound.args, {}) == spec_of(model).timestep(model, (), call)
    assert torch.equal(output_of(model(*bound.args)), output(model, call))


def test_a_call_without_timestep_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="called without 'timestep'"):
        pixart.SPEC.timestep(PixArtTransformer2DModel.__new__(PixArtTransformer2DModel), (torch.zeros(1),) * 2, {})


@contract
def test_train_units_are_turned_into_what_the_model_takes(family: Family) -> None:
    """What calibration on a data set writes into a call is what the pipeline would."""
    model = family.model()
    spec = spec_of(model)
    for timestep in (999.0, 500.0, 1.0):
        value = spec.units(model).from_train(torch.tensor([timestep]))
        passed = family.call(timestep)[spec.timestep_argument].flatten()[:1].double()
        torch.testing.assert_close(value, passed, rtol=1e-6, atol=1e-6)


@contract
def test_a_rounded_timestep_lands_in_the_stage_of_its_step(family: Family) -> None:
    """bfloat16 is off by up to 3.9 of 1000."""
    model = family.model()
    evenly = tuple(float(950 - 50 * step) for step in range(20))
    for timesteps in (evenly, SHIFTED):
        plan = StagePlan.split(timesteps, 10)
        for timestep, stage in zip(plan.timesteps, plan.stage_of_step, strict=True):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                arguments = as_passed(family, cast(family.call(timestep), dtype))
                assert plan.stage_at(spec_of(model).timestep(model, *arguments)) == stage, (timestep, dtype)


@contract
def test_the_router_reads_a_call_as_the_pipeline_makes_it(family: Family) -> None:
    pipe = family.pipe()
    bank = bank_of(family, "magnitude")
    with routed(pipe, bank, level(bank, 1, 2, 3)) as router:
        for timestep, stage in zip(PLAN.timesteps, PLAN.stage_of_step, strict=True):
            given, named = as_passed(family, family.call(timestep))
            denoiser_in(pipe)(*given, **named)
            assert router.stage == stage


@contract
def test_some_rows_of_a_call_are_those_rows_of_its_output(family: Family) -> None:
    model = family.model()
    spec, call = spec_of(model), family.call(300)
    assert num_rows(spec, call) == 2
    whole = output(model, call)
    for row in range(2):
        part = take_rows(spec, call, torch.tensor([row]))
        assert num_rows(spec, part) == 1
        torch.testing.assert_close(output(model, part)[0], whole[row], rtol=1e-4, atol=1e-5)
    swapped = take_rows(spec, call, torch.tensor([1, 0]))
    torch.testing.assert_close(output(model, swapped), whole.flip(0), rtol=1e-4, atol=1e-5)


def test_timesteps_of_single_tokens_count_as_the_noisiest() -> None:
    """Wan 2.2 gives every token its own, 0 on clean frames."""
    timesteps = torch.tensor([[0.0, 0.0, 500.0, 500.0]])
    assert wan.SPEC.timestep(torch.nn.Module(), (), {"timestep": timesteps}) == 500.0


def test_latents_are_packed_as_flux_does() -> None:
    latents = noise(2, 4, 6, 8)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
