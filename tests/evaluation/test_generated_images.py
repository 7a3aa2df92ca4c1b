"""Images depend on their seed and label, not on their batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, EulerAncestralDiscreteScheduler

from diff_es.errors import InputError
from diff_es.evaluation.images import generate, to_pixels
from diff_es.sampling import PromptRequests, Requests, SamplerConfig
from text_models import tiny_text_pipe

SAMPLER = SamplerConfig(num_inference_steps=2, guidance_scale=2.0)
REQUESTS = Requests(labels=(0, 1, 0), seeds=(11, 12, 13))


def test_images_are_what_the_pipeline_makes_and_in_order(tiny_pipe: DiTPipeline) -> None:
    images = generate(tiny_pipe, REQUESTS, SAMPLER, batch_size=2)
    assert (images.shape, images.dtype) == ((3, 3, 16, 16), torch.float32)
    assert 0 <= images.min() < images.max() <= 1
    for index in range(3):
        alone = generate(
            tiny_pipe, Requests(REQUESTS.labels[index:][:1], REQUESTS.seeds[index:][:1]), SAMPLER, batch_size=1
        )
        assert torch.allclose(images[index], alone[0], atol=1e-5)


def test_batch_size_does_not_change_the_images(tiny_pipe: DiTPipeline) -> None:
    one, all_at_once = (generate(tiny_pipe, REQUESTS, SAMPLER, batch_size=size) for size in (1, 3))
    assert torch.allclose(one, all_at_once, atol=1e-5)
    assert not torch.allclose(one[0], one[2], atol=1e-2), "same label, other seed"


def test_a_sampler_with_noise_at_every_step_is_repeatable(tiny_pipe: DiTPipeline) -> None:
    stochastic = DiTPipeline(tiny_pipe.transformer, tiny_pipe.vae, DDPMScheduler(clip_sample=False))
    state = torch.random.get_rng_state()
    first, second = (generate(stochastic, REQUESTS, SAMPLER, batch_size=2) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator is left alone"
    assert "step" not in vars(stochastic.scheduler), "the scheduler is left as it was"


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_a_sampler_with_noise_at_every_step_does_not_see_the_batch(
    tiny_pipe: DiTPipeline, scheduler: type, guidance_scale: float
) -> None:
    pipe = DiTPipeline(tiny_pipe.transformer, tiny_pipe.vae, scheduler())
    sampler = SamplerConfig(3, guidance_scale)
    together = generate(pipe, REQUESTS, sampler, batch_size=3)
    for index in range(3):
        request = Requests(REQUESTS.labels[index : index + 1], REQUESTS.seeds[index : index + 1])
        assert torch.allclose(generate(pipe, request, sampler, batch_size=1)[0], together[index], atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2), "same label, other seed"


def test_pixels_are_the_nearest_values() -> None:
    """Against diffusers' own way from numbers to pictures."""
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0] = torch.tensor([0.0, 0.5, 1.0])
    pictures = DiTPipeline.numpy_to_pil(images.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(to_pixels(images, (0, 1)).numpy(), np.stack([np.asarray(picture) for picture in pictures]))
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"seeds \[7\] hold NaN or infinity"):
        to_pixels(images, (5, 7))


def test_prompts_are_refused_by_a_pipeline_of_labels(tiny_pipe: DiTPipeline) -> None:
    with pytest.raises(InputError, match="DiTPipeline takes no 'prompt'"):
        generate(tiny_pipe, PromptRequests(("a boot",), (1,)), SAMPLER, batch_size=1)


def test_images_of_prompts_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """By a Stable Diffusion pipeline with random weights and noise at every step."""
    pipe = tiny_text_pipe(tmp_path)
    pipe.scheduler = EulerAncestralDiscreteScheduler()
    requests = PromptRequests.consecutive(("a boot", "a bag", "a boot"), 5)
    one, all_at_once = (generate(pipe, requests, SAMPLER, batch_size=size) for size in (1, 3))
    assert torch.allclose(one, all_at_once, atol=1e-4)
    assert not torch.allclose(one[0], one[2], atol=1e-2), "same prompt, other seed"


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_labels_the_pipeline_does_not_know_are_refused(tiny_pipe: DiTPipeline, label: int) -> None:
    with pytest.raises(InputError, match=rf"class_labels=\[{label}\] are out of range: the model knows 0…2"):
        generate(tiny_pipe, Requests((0, label), (1, 2)), SAMPLER, batch_size=2)


def test_a_class_whose_name_another_class_took_is_known(tiny_pipe: DiTPipeline) -> None:
    cranes = DiTPipeline(
        tiny_pipe.transformer, tiny_pipe.vae, tiny_pipe.scheduler, id2label={0: "crane", 1: "crane", 2: "ox"}
    )
    images = generate(cranes, Requests((0,), (1,)), SAMPLER, batch_size=1)
    assert np.isfinite(images.numpy()).all()


def test_batch_size_zero_is_refused(tiny_pipe: DiTPipeline) -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        generate(tiny_pipe, REQUESTS, SAMPLER, batch_size=0)
