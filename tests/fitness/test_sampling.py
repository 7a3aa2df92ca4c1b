"""Sampling: an image belongs to its label and seed, not to its batch, and nothing global is disturbed."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline

from diff_es.errors import InputError
from diff_es.sampling import Requests, SamplerConfig, class_labels, sample, seeded
from support import CLASSES, SAMPLER, tiny_pipe


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_images_do_not_depend_on_their_batch(pipe: DiTPipeline, guidance: float) -> None:
    sampler = SamplerConfig(6, guidance)
    requests = Requests.cycle(range(10), 5, 40)
    together = sample(pipe, requests, sampler)
    for size in (1, 2, 4):
        apart = torch.cat([sample(pipe, batch, sampler) for batch in requests.batches(size)])
        torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)
    backwards = sample(pipe, Requests(requests.labels[::-1], requests.seeds[::-1]), sampler)
    torch.testing.assert_close(backwards.flip(0), together, rtol=1e-4, atol=1e-5)


def test_images_differ_by_seed_and_by_label(pipe: DiTPipeline) -> None:
    images = sample(pipe, Requests((1, 1, 2), (5, 6, 5)), SAMPLER)
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_stochastic_sampling_repeats_and_leaves_the_global_generator_alone(pipe: DiTPipeline) -> None:
    before = pipe.scheduler
    pipe.scheduler = DDPMScheduler.from_config(before.config)
    try:
        state = torch.get_rng_state()
        first = sample(pipe, Requests((1, 2), (5, 6)), SAMPLER)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        assert torch.equal(sample(pipe, Requests((1, 2), (5, 6)), SAMPLER), first)
    finally:
        pipe.scheduler = before


def test_the_progress_bar_setting_is_kept() -> None:
    pipe = tiny_pipe()
    pipe.set_progress_bar_config(desc="mine", disable=False)
    sample(pipe, Requests((1,), (1,)), SAMPLER)
    assert pipe._progress_bar_config == {"desc": "mine", "disable": False}


def test_requests_are_checked_and_cut() -> None:
    requests = Requests.cycle(range(3), 7, 10)
    assert requests.labels == (0, 1, 2, 0, 1, 2, 0)
    assert requests.seeds == tuple(range(10, 17))
    assert [len(batch) for batch in requests.batches(3)] == [3, 3, 1]
    with pytest.raises(InputError, match="2 labels for 1 seeds"):
        Requests((1, 2), (3,))
    with pytest.raises(InputError, match="num_inference_steps=0"):
        SamplerConfig(0)
    assert SamplerConfig(1, 1.0).guided is False
    assert SamplerConfig(1, 1.5).guided is True


def test_labels_are_those_that_the_pipeline_names(pipe: DiTPipeline) -> None:
    assert class_labels(pipe) == range(CLASSES)
    nameless = DiTPipeline(pipe.transformer, pipe.vae, pipe.scheduler)
    assert class_labels(nameless) == range(1000)


def test_streams_of_different_keys_differ() -> None:
    draws = {tuple(torch.rand(4, generator=seeded(*key)).tolist()) for key in ((0,), (1,), (0, 0), (0, 1), (1, 0))}
    assert len(draws) == 5
    assert torch.equal(torch.rand(4, generator=seeded(3, 4)), torch.rand(4, generator=seeded(3, 4)))
