"""One image depends on its own seed and label, not on its batch, the global generator or what was sampled before."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.sampling import Requests, SamplerConfig, class_labels, quiet, sample, seeded
from support import CLASSES, tiny_pipe

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


def test_a_stochastic_sampler_is_reproducible_too() -> None:
    pipe = tiny_pipe()
    pipe.scheduler = DDPMScheduler()
    requests = Requests.cycle(range(CLASSES), 2, 3)
    images = sample(pipe, requests, SAMPLER)
    torch.manual_seed(123)
    assert torch.equal(sample(pipe, requests, SAMPLER), images)


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
