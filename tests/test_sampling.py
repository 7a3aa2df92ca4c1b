"""One image depends on its own seed and label, not on its batch, the global generator or what was sampled before."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.sampling import MAX_SEED, PromptRequests, Requests, SamplerConfig, class_labels, quiet, sample, seeded
from diff_es.timesteps import sampler_timesteps
from support import CLASSES, tiny_pipe
from text_models import tiny_text_pipe
from tiny_pipelines import tiny_flux

SAMPLER = SamplerConfig(num_inference_steps=3)


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=5), st.integers(1, 20), st.integers(0, 10**6), st.integers(1, 7)
)
def test_requests_go_round_the_labels_and_batches_keep_the_order(
    labels: list[int], count: int, first: int, size: int
) -> None:
    requests = Requests.cycle(labels, count, first)
    assert requests.labels == tuple(itertools.islice(itertools.cycle(labels), count))
    assert requests.seeds == tuple(range(first, first + count))
    batches = list(requests.batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1) and 0 < len(batches[-1]) <= size
    assert sum((batch.labels for batch in batches), ()) == requests.labels
    assert sum((batch.seeds for batch in batches), ()) == requests.seeds


@pytest.mark.parametrize(("labels", "seeds"), [((), ()), ((1,), ()), ((1, 2), (3,))])
def test_requests_need_a_seed_for_each_label(labels: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="one per image"):
        Requests(labels, seeds)


def test_sampler_config() -> None:
    with pytest.raises(InputError, match="num_inference_steps=0 must be at least 1"):
        SamplerConfig(0)
    assert SamplerConfig(1, 1.5).guided and not SamplerConfig(1, 1.0).guided


def test_the_stream_of_a_key_is_its_own() -> None:
    keys = [(0,), (0, 0), (0, 0, 0), (1,), (0, 1), (1, 0), (2**63,), (2**64 + 1,)]
    firsts = {key: int(torch.randint(2**62, (1,), generator=seeded(*key))) for key in keys}
    assert len(set(firsts.values())) == len(keys)
    again = {key: int(torch.randint(2**62, (1,), generator=seeded(*key))) for key in keys}
    assert firsts == again


def test_images_are_in_range_and_the_same_again(pipe: DiTPipeline) -> None:
    requests = Requests.cycle(range(CLASSES), 3, 11)
    images = sample(pipe, requests, SAMPLER)
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    torch.manual_seed(999)
    assert torch.equal(sample(pipe, requests, SAMPLER), images)


def test_an_image_does_not_depend_on_its_batch(pipe: DiTPipeline) -> None:
    requests = Requests.cycle(range(CLASSES), 4, 11)
    together = sample(pipe, requests, SAMPLER)
    alone = torch.cat([sample(pipe, one, SAMPLER) for one in requests.batches(1)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_label_and_seed_both_matter(pipe: DiTPipeline) -> None:
    base, label, seed = (sample(pipe, Requests((a,), (b,)), SAMPLER) for a, b in ((3, 5), (4, 5), (3, 6)))
    assert not torch.equal(base, label) and not torch.equal(base, seed)


def test_the_global_generator_is_left_alone(pipe: DiTPipeline) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    sample(pipe, Requests((1,), (2,)), SAMPLER)
    assert torch.equal(torch.rand(4), expected)


def test_a_pipeline_on_the_cpu_leaves_all_gpus_alone(
    pipe: DiTPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even their generators are read: torch would be at home on every GPU of the machine from then on."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a GPU was looked at")

    computes_timesteps = tiny_flux(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    images = sample(pipe, Requests((1,), (5,)), SAMPLER)
    assert torch.isfinite(images).all()
    assert len(sampler_timesteps(computes_timesteps, 4)) == 4


def test_a_stochastic_sampler_is_reproducible_too() -> None:
    pipe = tiny_pipe()
    pipe.scheduler = DDPMScheduler()
    requests = Requests.cycle(range(CLASSES), 2, 3)
    images = sample(pipe, requests, SAMPLER)
    torch.manual_seed(123)
    assert torch.equal(sample(pipe, requests, SAMPLER), images)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_the_noise_of_every_step_is_the_images_own(scheduler: type[Any], guidance_scale: float) -> None:
    pipe = tiny_pipe()
    pipe.scheduler = scheduler()
    sampler, requests = SamplerConfig(3, guidance_scale), Requests((1, 2, 1), (11, 12, 13))
    together = sample(pipe, requests, sampler)
    alone = torch.cat([sample(pipe, one, sampler) for one in requests.batches(1)])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)
    assert not torch.allclose(together[0], together[2], atol=1e-3), "same label, other seed"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_a_sampler_without_noise_makes_what_the_plain_pipeline_makes(scheduler: type[Any]) -> None:
    pipe = tiny_pipe()
    pipe.scheduler = scheduler()
    generators = [seeded(seed) for seed in (11, 12)]
    plain = pipe([1, 2], generator=generators, num_inference_steps=3, guidance_scale=4.0, output_type="pt").images
    assert torch.equal(sample(pipe, Requests((1, 2), (11, 12)), SAMPLER), plain)


def test_the_scheduler_is_left_as_it_was_also_after_an_error() -> None:
    pipe = tiny_pipe()
    sample(pipe, Requests((1,), (2,)), SAMPLER)
    assert "step" not in vars(pipe.scheduler)

    def step(*_: Any, generator: list[torch.Generator] | None = None) -> None:
        raise KeyboardInterrupt(f"{len(generator or [])} generators")

    pipe.scheduler.step = step
    with pytest.raises(KeyboardInterrupt, match="4 generators"):
        sample(pipe, Requests((1, 3), (2, 4)), SAMPLER)
    assert pipe.scheduler.step is step


def test_class_labels_run_to_the_highest_named_one() -> None:
    pipe = tiny_pipe()
    assert class_labels(pipe) == range(CLASSES)
    pipe.labels = {"crane": 517, "tench": 0}
    assert class_labels(pipe) == range(518)
    pipe.labels = {}
    assert class_labels(pipe) == range(1000)


def test_quiet_restores_the_progress_bar() -> None:
    pipe = tiny_pipe()
    pipe.set_progress_bar_config(desc="mine", disable=False)
    with pytest.raises(KeyboardInterrupt), quiet(pipe):
        assert pipe._progress_bar_config == {"desc": "mine", "disable": True}
        raise KeyboardInterrupt
    assert pipe._progress_bar_config == {"desc": "mine", "disable": False}


PROMPTS = ("a dog", "a red cat", "a longer prompt about nothing")


@pytest.fixture(scope="module")
def text_pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    return tiny_text_pipe(tmp_path_factory.mktemp("tokenizer"))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=9), st.integers(0, 10**6), st.integers(1, 4))
def test_prompt_requests_have_consecutive_seeds_and_keep_the_order(prompts: list[str], first: int, size: int) -> None:
    requests = PromptRequests.consecutive(prompts, first)
    assert len(requests) == len(prompts) and requests.seeds == tuple(range(first, first + len(prompts)))
    assert requests.arguments() == {"prompt": prompts}
    batches = list(requests.batches(size))
    assert sum((batch.prompts for batch in batches), ()) == tuple(prompts)
    assert sum((batch.seeds for batch in batches), ()) == requests.seeds
    assert max(len(batch) for batch in batches) <= size


@pytest.mark.parametrize(("prompts", "seeds"), [((), ()), (("a",), ()), (("a", "b"), (3,))])
def test_prompt_requests_need_a_seed_for_each_prompt(prompts: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="one per image"):
        PromptRequests(prompts, seeds)


def test_class_requests_say_what_the_pipeline_takes() -> None:
    assert Requests((3, 1), (0, 1)).arguments() == {"class_labels": [3, 1]}


def test_prompted_images_do_not_depend_on_their_batch(text_pipe: StableDiffusionPipeline) -> None:
    requests = PromptRequests.consecutive(PROMPTS, 11)
    together = sample(text_pipe, requests, SAMPLER)
    assert together.shape == (3, 3, 16, 16) and 0 <= float(together.min()) < float(together.max()) <= 1
    for size in (1, 2):
        parts = torch.cat([sample(text_pipe, batch, SAMPLER) for batch in requests.batches(size)])
        torch.testing.assert_close(parts, together, rtol=1e-4, atol=1e-6)


def test_prompt_and_seed_both_matter(text_pipe: StableDiffusionPipeline) -> None:
    base, prompt, seed = (
        sample(text_pipe, PromptRequests((a,), (b,)), SAMPLER) for a, b in (("a dog", 5), ("a cat", 5), ("a dog", 6))
    )
    assert (base - prompt).abs().max() > 1e-3 and (base - seed).abs().max() > 1e-3


def test_requests_of_the_wrong_kind_are_one_clear_line(pipe: DiTPipeline, text_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(InputError, match="DiTPipeline takes no 'prompt': give Requests"):
        sample(pipe, PromptRequests(("a dog",), (1,)), SAMPLER)
    with pytest.raises(InputError, match="StableDiffusionPipeline takes no 'class_labels'"):
        sample(text_pipe, Requests((1,), (1,)), SAMPLER)


def test_blackened_images_are_refused(text_pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's own hook for its safety checker, made to dislike the second image."""

    def check(image: torch.Tensor, *_: object) -> tuple[torch.Tensor, list[bool]]:
        flags = [index == 1 for index in range(len(image))]
        image[1:2] = 0
        return image, flags

    monkeypatch.setattr(text_pipe, "run_safety_checker", check)
    with pytest.raises(InputError, match=r"blackened 1 of 3 images \(seeds \[12\]\): .*safety_checker=None"):
        sample(text_pipe, PromptRequests.consecutive(PROMPTS, 11), SAMPLER)
    assert sample(text_pipe, PromptRequests(PROMPTS[:1], (11,)), SAMPLER).max() > 0


def test_further_arguments_reach_the_pipeline(tmp_path: Path) -> None:
    """FLUX's longest prompt decides how many text tokens its denoiser sees."""
    pipe = tiny_flux(tmp_path)
    seen: list[int] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    for arguments in ({"max_sequence_length": 5}, {"max_sequence_length": 9}):
        sample(pipe, PromptRequests(("a boot",), (0,)), SamplerConfig(1, 1.0, arguments))
    hook.remove()
    assert seen == [5, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_sequence_lenght": 5},
            r"FluxPipeline takes no 'max_sequence_lenght'.*did you mean 'max_sequence_length'",
        ),
        ({"prompt": "a boot"}, "has prompt, which Diff-ES gives itself"),
        ({"denoising_end": 0.5}, "has denoising_end, which leaves out steps that stages and budget count"),
    ],
)
def test_arguments_that_cannot_be_given_are_refused(
    arguments: dict[str, int | str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        sample(tiny_flux(tmp_path), PromptRequests(("a boot",), (0,)), SamplerConfig(1, 1.0, arguments))


@pytest.mark.parametrize("first", [-5, MAX_SEED - 1, 10**20])
def test_seeds_that_no_generator_takes_are_refused(first: int) -> None:
    for make in (Requests.cycle, PromptRequests.cycle):
        with pytest.raises(InputError, match=rf"seeds={first}…{first + 2} must lie between 0 and {MAX_SEED}"):
            make([1] if make == Requests.cycle else ["a"], 3, first)  # type: ignore[arg-type]


def test_the_largest_seeds_are_sampled_with(text_pipe: Any) -> None:
    assert sample(text_pipe, PromptRequests.cycle(PROMPTS, 1, MAX_SEED), SAMPLER).isfinite().all()


def test_batches_of_nothing_are_refused() -> None:
    for requests in (Requests((1,), (0,)), PromptRequests(("a",), (0,))):
        with pytest.raises(InputError, match="batch_size=0 must be at least 1"):
            list(requests.batches(0))


def test_nothing_to_go_round_is_refused() -> None:
    with pytest.raises(InputError, match="labels is empty"):
        Requests.cycle([], 3, 0)
    with pytest.raises(InputError, match="prompts is empty"):
        PromptRequests.cycle([], 3, 0)
