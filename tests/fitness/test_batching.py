"""The choice of a batch size: on made-up times with a known answer, and on a real model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from diff_es.errors import InputError, is_out_of_memory
from diff_es.fitness import batching, bytes_beside_dense, choose_batch_size
from diff_es.fitness.batching import BatchChoice, best_of, largest_that_runs
from diff_es.routing import ModePlan
from diff_es.routing.sizes import dense_bytes
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


#: What torch raises where the memory of a GPU, and of the host, is exhausted.
FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
]


def test_torch_says_on_a_cpu_that_memory_is_lacking() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_out_of_memory(told.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize(("fits", "wanted"), [(8, 4), (4, 4), (3, 2), (1, 1)])
def test_a_whole_run_must_fit_too(full: Exception, fits: int, wanted: int) -> None:
    tried: list[int] = []

    def run(size: int) -> None:
        tried.append(size)
        if size > fits:
            raise full

    choice = BatchChoice(4, {1: 1.0, 2: 0.6, 4: 0.5, 8: 0.49})
    assert largest_that_runs(choice, run) == BatchChoice(wanted, choice.seconds_per_probe)
    assert tried == [size for size in (4, 2, 1) if size >= wanted]


@pytest.mark.parametrize("full", FULL)
def test_where_not_even_one_fits_the_way_out_is_named(full: Exception) -> None:
    def run(_: int) -> None:
        raise full

    with pytest.raises(InputError, match=r"not even 1 probe fits .*use a smaller dtype"):
        largest_that_runs(BatchChoice(2, {1: 1.0, 2: 0.5}), run)


def test_other_errors_of_a_run_are_no_lack_of_memory() -> None:
    def run(_: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        largest_that_runs(BatchChoice(2, {1: 1.0, 2: 0.5}), run)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        best_of(iter((1, 2)), run)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_decoded_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipe()
    decode = pipe.vae.decode
    decoded: list[int] = []

    def narrow(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(pipe.vae, "decode", narrow)
    monkeypatch.setattr(batching, "_seconds", lambda *_: 1.0)  # the more at once, the faster
    choice = choose_batch_size(pipe, Requests.cycle(range(CLASSES), 6, 0), SAMPLER)
    assert (choice.batch_size, decoded[-4:]) == (1, [6, 4, 2, 1])


def test_the_trial_has_no_more_memory_than_the_search_will(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that holds two probes beside the dense model, and one beside what the search keeps as well."""
    pipe = tiny_pipe()
    decode, taken = pipe.vae.decode, [0]

    @contextmanager
    def occupied(size: int, device: torch.device) -> Iterator[None]:
        taken.append(size)
        yield
        taken.pop()

    def full(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(latents) * 100 + taken[-1] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(pipe.vae, "decode", full)
    monkeypatch.setattr(batching, "_occupied", occupied)
    monkeypatch.setattr(batching, "_seconds", lambda *_: 1.0)
    probes = Requests.cycle(range(CLASSES), 6, 0)
    assert choose_batch_size(pipe, probes, SAMPLER).batch_size == 2
    assert choose_batch_size(pipe, probes, SAMPLER, occupied_bytes=100).batch_size == 1


def test_what_a_search_keeps_beside_the_dense_model() -> None:
    pipe, gib = tiny_pipe(), 2**30
    dense = dense_bytes(pipe.transformer)
    needed = {"resident": dense + 600, "gather": dense + 100, "stream": dense - 50}

    def beside(mode: str, limit: int | None) -> int:
        return bytes_beside_dense(pipe.transformer, ModePlan(mode, needed, limit, ""))  # type: ignore[arg-type]

    assert beside("resident", None) == 600 + 2 * 2 * gib, "thin layers, outputs, and thin layers of later candidates"
    assert beside("resident", dense + 1000) == 600 + 100 + 100, "a quarter of the other 400 each"
    assert beside("gather", dense + 500) == 100 + 100
    assert beside("stream", dense + 350) == 100


def test_memory_that_is_not_free_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with (
        pytest.raises(InputError, match=r"the 2.00 GiB that the search keeps .* are not free"),
        batching._occupied(2 * 2**30, torch.device("cuda")),
    ):
        pass


def test_a_cpu_is_not_filled() -> None:
    with batching._occupied(2**60, torch.device("cpu")):
        pass


def test_a_real_model_is_timed_at_powers_of_two_and_at_all_probes() -> None:
    pipe = tiny_pipe()
    choice = choose_batch_size(pipe, Requests.cycle(range(CLASSES), 6, 0), SAMPLER)
    assert list(choice.seconds_per_probe) == [1, 2, 4, 6]
    assert choice.batch_size in choice.seconds_per_probe
    assert all(value > 0 for value in choice.seconds_per_probe.values())
