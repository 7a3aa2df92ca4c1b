"""The step of a running pipeline: known while it runs, and never taken for one of anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import nn

from diff_es.denoisers import denoiser_of, spec_of
from diff_es.denoisers.scheduled import scheduled_timestep
from diff_es.sampling import SamplerConfig, any_requests, sample
from support import REQUESTS, SAMPLER, tiny_pipe
from tiny_pipelines import tiny_flux

STEPS = 4


class PowerCutError(Exception):
    pass


@pytest.fixture
def flux(tmp_path: Path) -> FluxPipeline:
    return tiny_flux(tmp_path)


def run(pipe: FluxPipeline) -> None:
    sample(pipe, any_requests(pipe, 1), SamplerConfig(STEPS, 0.0))


def test_it_is_the_entry_of_the_schedulers_timesteps(flux: FluxPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(module: nn.Module, args: Any) -> None:
        entry = scheduled_timestep(module)
        assert entry is not None and entry.untyped_storage().data_ptr() == flux.scheduler.timesteps.data_ptr()
        seen.append((entry.storage_offset(), float(entry)))

    denoiser_of(flux).register_forward_pre_hook(note)
    run(flux)
    assert seen == [(0, 1000.0), (1, 750.0), (2, 500.0), (3, 250.0)]


def test_after_a_run_that_broke_off_the_scheduler_is_not_asked(flux: FluxPipeline) -> None:
    """It stands at the step at which the run ended, and the next call may be anybody's."""
    denoiser = denoiser_of(flux)
    calls: list[dict[str, Any]] = []

    def cut(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)
        if len(calls) == 3:
            raise PowerCutError

    handle = denoiser.register_forward_pre_hook(cut, with_kwargs=True)
    with pytest.raises(PowerCutError):
        run(flux)
    handle.remove()
    assert flux.scheduler.step_index == 2
    assert scheduled_timestep(denoiser) is None
    call = {**calls[0], "timestep": torch.full((1,), 0.3)}
    assert spec_of(denoiser).timestep(denoiser, (), call) == pytest.approx(300)


def test_another_model_that_is_called_meanwhile_is_at_no_step(flux: FluxPipeline, tmp_path: Path) -> None:
    other, seen = denoiser_of(tiny_flux(tmp_path)), []
    denoiser_of(flux).register_forward_pre_hook(lambda *_: seen.append(scheduled_timestep(other)))
    run(flux)
    assert seen == [None] * STEPS


def test_a_scheduler_that_does_not_count_is_not_asked() -> None:

    pipe, seen = tiny_pipe(), []
    denoiser_of(pipe).register_forward_pre_hook(lambda module, _: seen.append(scheduled_timestep(module)))
    sample(pipe, REQUESTS, SAMPLER)
    assert seen and set(seen) == {None}
