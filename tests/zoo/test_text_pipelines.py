"""The shipped text-to-image pipelines: plain diffusers loads them, and they draw what a prompt asks for."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionXLPipeline,
)

from diff_es import zoo
from diff_es.evaluation.fashion import fashion_judge
from diff_es.evaluation.images import generate, to_pixels
from diff_es.evaluation.quality import agreement
from diff_es.sampling import PromptRequests, SamplerConfig
from diff_es.zoo.captions import captions_of

CLASSES = {"fashion-sdxl": StableDiffusionXLPipeline, "fashion-flux": FluxPipeline}
#: How a prompt is drawn in a few steps.
CALLS = {
    "fashion-sdxl": {"num_inference_steps": 8, "guidance_scale": 4.0},
    "fashion-flux": {"num_inference_steps": 4, "max_sequence_length": 16},
}


@pytest.fixture(scope="module", params=CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipeline(name: str) -> DiffusionPipeline:
    return zoo.load_pipeline(name)


def seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_plain_diffusers_loads_the_same(name, pipeline):
    plain = DiffusionPipeline.from_pretrained(zoo.path(name))
    assert type(plain) is type(pipeline) is CLASSES[name]
    for part, module in plain.components.items():
        if isinstance(module, torch.nn.Module):
            assert module.dtype == torch.float32
            ours = getattr(pipeline, part).state_dict()
            assert all(torch.equal(ours[key], value) for key, value in module.state_dict().items())


def test_the_autoencoder_is_that_of_the_zoo(pipeline):
    ours, shipped = pipeline.vae, AutoencoderKL.from_pretrained(zoo.path("fashion-vae"))
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in shipped.state_dict().items())
    assert ours.config.scaling_factor == shipped.config.scaling_factor


def test_most_prompts_are_recognised_at_few_steps(name, pipeline):
    with torch.no_grad():
        images = pipeline(list(zoo.CAPTIONS), generator=seeds(10), output_type="pt", **CALLS[name]).images
        recognised = zoo.load_classifier()(images * 2 - 1).argmax(1) == torch.arange(10)
    assert images.shape == (10, 3, 32, 32)
    assert recognised.sum() >= 8


def test_the_same_seed_gives_the_same_image(name, pipeline):
    call = CALLS[name] | {"num_inference_steps": 2, "output_type": "pt"}
    first, again, other = (
        pipeline("a bag", generator=torch.Generator().manual_seed(seed), **call).images for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_prompts_may_be_worded_otherwise(name, pipeline):
    """Upper case, punctuation, and any of the trained sentences."""
    with torch.no_grad():
        images = pipeline(
            ["A picture of a TROUSER.", "trouser", "an image of a trouser", "a trouser!"],
            generator=seeds(4),
            output_type="pt",
            **CALLS[name],
        ).images
        recognised = zoo.load_classifier()(images * 2 - 1).argmax(1) == 1
    assert recognised.sum() >= 3


def test_flux_draws_the_same_whatever_the_padding():
    pipeline = zoo.load_pipeline("fashion-flux")
    images = [
        pipeline("a bag", num_inference_steps=4, generator=seeds(1), output_type="pt", **length).images
        for length in ({}, {"max_sequence_length": 16})
    ]
    assert float((images[0] - images[1]).abs().mean()) < 0.05


def test_samplers_and_options_are_as_the_cards_say():
    sdxl, flux = zoo.load_pipeline("fashion-sdxl"), zoo.load_pipeline("fashion-flux")
    assert not sdxl.config.force_zeros_for_empty_prompt
    assert sdxl.watermark is None
    assert sdxl.scheduler.config.prediction_type == "epsilon"
    assert isinstance(flux.scheduler, FlowMatchEulerDiscreteScheduler)
    assert flux.scheduler.config.shift == 1.0
    assert not flux.scheduler.config.use_dynamic_shifting
    assert not flux.transformer.config.guidance_embeds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampler"),
    [("fashion-sdxl", SamplerConfig(20, 4.0)), ("fashion-flux", SamplerConfig(4, 0.0))],
    indirect=["name"],
)
def test_five_hundred_samples_agree_with_their_prompts(pipeline, sampler):
    labels = torch.arange(500) % 10
    requests = PromptRequests.consecutive(captions_of(labels.tolist()), first_seed=0)
    images = generate(pipeline, requests, sampler, batch_size=50)
    judge = fashion_judge()
    agrees = float(agreement(judge.look(to_pixels(images, requests.seeds)), labels).mean())
    print(sampler, agrees)
    assert agrees >= 0.93
