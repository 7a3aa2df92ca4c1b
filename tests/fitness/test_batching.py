"""The choice of a batch size: on made-up times with a known answer, and on a real model."""

from __future__ import annotations

import pytest
import torch

from diff_es.errors import InputError
from diff_es.fitness import choose_batch_size
from diff_es.fitness.batching import best_of
from diff_es.sampling import Requests
from support import CLASSES, SAMPLER, tiny_pipe


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.5, 8: 0.49, 16: 0.495}, 4),
        ({1: 1.0, 2: 0.6, 4: 0.5, 8: 0.4}, 8),
        ({1: 1.0, 2: 1.1, 4: 1.3}, 1),
        ({1: 1.05, 2: 1.0}, 1),
        ({1: 1.06, 2: 1.0}, 2),
        ({3: 2.0}, 3),
    ],
)
def test_the_smallest_of_the_nearly_fastest(times: dict[int, float], best: int) -> None:
    choice = best_of(iter(times), times.__getitem__)
    assert choice.batch_size == best
    assert choice.seconds_per_probe == times


def test_what_does_not_fit_is_not_chosen() -> None:
    def seconds(size: int) -> float:
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1 / size

    assert best_of(iter((1, 2, 4, 8)), seconds).batch_size == 2
    with pytest.raises(InputError, match=r"search.batch_size=auto: not even 4 probe.*CUDA out of memory"):
        best_of(iter((4, 8)), seconds)


def test_a_real_model_is_timed_at_powers_of_two_and_at_all_probes() -> None:
    pipe = tiny_pipe()
    choice = choose_batch_size(pipe, Requests.cycle(range(CLASSES), 6, 0), SAMPLER)
    assert list(choice.seconds_per_probe) == [1, 2, 4, 6]
    assert choice.batch_size in choice.seconds_per_probe
    assert all(value > 0 for value in choice.seconds_per_probe.values())
