"""What the denoiser should predict, against diffusers' own formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline, EDMEulerScheduler
from torch import Tensor

from diff_es.calibration import SamplingSource
from diff_es.calibration.sources import TargetSource
from diff_es.errors import InputError
from support import REQUESTS, tiny_pipe, tiny_source


@pytest.fixture
def pipe() -> DiTPipeline:
    return tiny_pipe()


def predicts(pipe: DiTPipeline, prediction_type: str) -> None:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=prediction_type)


def only(pairs: Any) -> tuple[dict[str, Tensor], Tensor]:
    (pair,) = pairs
    return pair


def test_the_noise_of_a_noisy_latent_is_the_target(pipe: DiTPipeline) -> None:
    source = tiny_source(guided=False, batch_size=12)
    call, noise = only(source.targets(pipe, 500.0))
    assert call["timestep"].tolist() == [500] * 12
    assert call["class_labels"].tolist() == list(source.requests.labels)
    own = DDPMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(call["hidden_states"], own.add_noise(source.latents, noise, call["timestep"]))
    assert abs(float(noise.mean())) < 0.15
    assert abs(float(noise.std()) - 1) < 0.15


def test_the_velocity_is_the_target_of_models_that_predict_it(pipe: DiTPipeline) -> None:
    source = tiny_source(guided=False, batch_size=12)
    noise = only(source.targets(pipe, 500.0))[1]
    predicts(pipe, "v_prediction")
    call, velocity = only(source.targets(pipe, 500.0))
    own = DDPMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(velocity, own.get_velocity(source.latents, noise, call["timestep"]))


def test_both_halves_of_a_guided_call_have_the_same_target(pipe: DiTPipeline) -> None:
    pairs = list(tiny_source(12).targets(pipe, 166.0))
    assert [len(target) for _, target in pairs] == [16, 8]
    for call, target in pairs:
        assert torch.equal(*target.chunk(2))
        assert torch.equal(*call["hidden_states"].chunk(2))
        assert call["class_labels"][len(target) // 2 :].tolist() == [1000] * (len(target) // 2)


def test_targets_are_repeatable_and_depend_on_seed_and_timestep(pipe: DiTPipeline) -> None:
    source = tiny_source(guided=False, batch_size=12)
    first, again = (only(source.targets(pipe, 332.0))[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, only(source.targets(pipe, 333.0))[1])
    assert not torch.equal(first, only(tiny_source(guided=False, batch_size=12, seed=1).targets(pipe, 332.0))[1])


def test_any_timestep_of_a_sampler_is_taken_to_a_whole_one(pipe: DiTPipeline) -> None:
    for timestep, whole in ((331.6, 332), (0.0, 0), (1000.0, 999)):
        assert set(only(tiny_source(4, guided=False).targets(pipe, timestep))[0]["timestep"].tolist()) == {whole}


def test_other_predictions_are_refused(pipe: DiTPipeline) -> None:
    predicts(pipe, "sample")
    with pytest.raises(InputError, match=r"epsilon or v_prediction; DDIMScheduler says 'sample'"):
        next(tiny_source().targets(pipe, 1.0))
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(InputError, match=r"EDMEulerScheduler.*no alphas_cumprod and is no flow"):
        next(tiny_source().targets(pipe, 1.0))


def test_only_data_sets_have_targets() -> None:
    assert isinstance(tiny_source(), TargetSource)
    assert not isinstance(SamplingSource(REQUESTS), TargetSource)
