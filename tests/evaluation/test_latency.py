"""Order of the runs, percentiles, and words for a slow-down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from diff_es.denoisers import timestep
from diff_es.errors import InputError
from diff_es.evaluation import LatencyRecord, describe_speedup, measure_latency, speedup
from diff_es.evaluation.latency import _denoiser_run, measure_batch_sizes, routing_contender
from diff_es.routing import is_routed, routed
from diff_es.sampling import Requests, SamplerConfig, sample
from support import SAMPLER, mixed_levels, same_state, snapshot, tiny_bank, tiny_pipe


def record(median: float, device: str = "CPU", threads: int = 2) -> LatencyRecord:
    return LatencyRecord(median, 0.9 * median, 1.2 * median, 20, 3, device, threads)


def test_sides_take_turns_from_both_ends() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    measure_latency(sides, repeats=4, warmup=2)
    turns = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert turns == ["abc", "cba", "abc", "cba", "abc", "cba"]
    assert Counter(calls) == {"a": 6, "b": 6, "c": 6}


def test_it_measures_the_time_of_each_side_and_not_the_warm_up() -> None:
    first = iter([0.2, *[0.0] * 9])

    def slow_at_first() -> None:
        time.sleep(next(first))

    records = measure_latency(
        {"slow": lambda: time.sleep(0.03), "quick": lambda: time.sleep(0.003), "starts slow": slow_at_first},
        repeats=5,
        warmup=1,
        device=torch.device("cpu"),
    )
    assert list(records) == ["slow", "quick", "starts slow"]
    assert records["slow"].p10_ms >= 30
    assert records["quick"].median_ms >= 3
    assert records["starts slow"].p90_ms < 100
    assert speedup(records["slow"], records["quick"]) > 1.5
    assert (records["slow"].repeats, records["slow"].warmup) == (5, 1)
    assert records["slow"].threads == torch.get_num_threads()
    assert records["slow"].device


def test_speedup_is_the_ratio_of_medians() -> None:
    assert speedup(record(30.0), record(20.0)) == pytest.approx(1.5)
    assert speedup(record(20.0), record(30.0)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("device", "threads"), [("GPU", 2), ("CPU", 8)])
def test_a_speedup_across_machines_is_refused(device: str, threads: int) -> None:
    with pytest.raises(InputError, match="A speed-up needs one machine"):
        speedup(record(30.0), record(20.0, device, threads))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.369, "1.37× as fast as dense"),
        (1.004, "as fast as dense"),
        (0.996, "as fast as dense"),
        (0.842, "slower than dense (0.84×)"),
    ],
)
def test_a_slow_down_is_called_one(value: float, words: str) -> None:
    assert describe_speedup(value) == words


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 3), (20, -1)])
def test_impossible_counts_are_refused(repeats: int, warmup: int) -> None:
    with pytest.raises(InputError, match="repeats="):
        measure_latency({"a": lambda: None}, repeats=repeats, warmup=warmup)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="0 sides"):
        measure_latency({})


def test_a_record_refuses_percentiles_out_of_order() -> None:
    with pytest.raises(InputError, match="p10_ms ≤ median_ms"):
        LatencyRecord(10.0, 11.0, 12.0, 20, 3, "CPU", 2)


def test_what_is_within_is_not_timed() -> None:
    order: list[str] = []

    @contextmanager
    def slow_to_enter() -> Iterator[None]:
        time.sleep(0.03)
        order.append("enter")
        yield
        order.append("leave")
        time.sleep(0.03)

    records = measure_latency(
        {"side": lambda: order.append("run")}, repeats=3, warmup=1, within={"side": slow_to_enter}
    )
    assert order == ["enter", "run", "leave"] * 4
    assert records["side"].p90_ms < 20


def test_batch_sizes_and_scopes_of_a_pipeline() -> None:
    """A model that sleeps at every call: the time of a call is the sleep, that of the pipeline all of them. (Random
    weights.)"""
    pipe = tiny_pipe()
    rows: list[tuple[str, int]] = []

    @contextmanager
    def sleepy() -> Iterator[None]:
        hook = pipe.transformer.register_forward_pre_hook(
            lambda _, __, kwargs: time.sleep(0.01) or rows.append(("sleepy", len(kwargs["class_labels"]))),
            with_kwargs=True,
        )
        yield
        hook.remove()

    contenders = {"dense": nullcontext, "sleepy": sleepy}
    entries = measure_batch_sizes(pipe, contenders, SAMPLER, batch_sizes=(1, 3), repeats=2)
    wanted = [(1, "denoiser"), (1, "pipeline"), (3, "denoiser"), (3, "pipeline")]
    assert list(entries) == ["dense", "sleepy"]
    for own in entries.values():
        assert [(entry.batch_size, entry.scope) for entry in own] == wanted
        assert {entry.record.repeats for entry in own} == {2}
    steps = SAMPLER.num_inference_steps
    dense, slow = ([entry.record.median_ms for entry in own] for own in entries.values())
    for call, whole in ((0, 1), (2, 3)):
        assert slow[call] >= 10 and slow[whole] >= 10 * steps
        assert slow[call] - dense[call] < 10 * steps
    # With guidance every call has two rows per image; 3 runs to warm up and 2 that count, for both scopes.
    assert Counter(rows) == {("sleepy", 2): 2 * 5 * steps, ("sleepy", 6): 2 * 5 * steps}


def test_without_guidance_a_call_has_one_row_per_image() -> None:
    pipe = tiny_pipe()
    rows: set[int] = set()
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, __, kwargs: rows.add(len(kwargs["class_labels"])), with_kwargs=True
    )
    unguided = SamplerConfig(num_inference_steps=2, guidance_scale=1.0)
    measure_batch_sizes(pipe, {"dense": nullcontext}, unguided, batch_sizes=(3,), scopes=("denoiser",), repeats=1)
    hook.remove()
    assert rows == {3}


def test_the_device_is_not_waited_for_within_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense model reads no timestep: a routed one that had to ask for it would look slower than it is."""
    pipe = tiny_pipe()
    bank = tiny_bank(pipe, "obs")
    routed_model = routing_contender(pipe, bank, bank.uniform_allocation().resolve(mixed_levels(bank)))
    waits: list[float] = []
    monkeypatch.setattr(timestep, "_READ_AS_THEY_ARE", ())
    monkeypatch.setattr(timestep, "_read", lambda value: waits.append(float(value.max())) or waits[-1])
    run, calls = _denoiser_run(pipe, Requests((3, 4), (5, 6)), SAMPLER)
    waits.clear()
    with routed_model():
        run()
    assert calls == SAMPLER.num_inference_steps and waits == []


def test_a_routing_contender_routes_and_leaves() -> None:
    pipe = tiny_pipe()
    bank = tiny_bank(pipe, "obs")
    schedule = bank.uniform_allocation().resolve(mixed_levels(bank))
    requests = Requests((3,), (5,))
    with routed(pipe, bank, schedule):
        wanted = sample(pipe, requests, SAMPLER)
    before = snapshot(pipe.transformer)
    contender = routing_contender(pipe, bank, schedule)
    for _ in range(2):
        assert same_state(pipe.transformer, before) and not is_routed(pipe)
        with contender():
            assert torch.equal(sample(pipe, requests, SAMPLER), wanted)
    with pytest.raises(ZeroDivisionError), contender():
        raise ZeroDivisionError
    assert same_state(pipe.transformer, before)


@pytest.mark.parametrize("wrong", [{"batch_sizes": ()}, {"batch_sizes": (4, 0)}, {"scopes": ()}])
def test_impossible_batch_sizes_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="need at least one each"):
        measure_batch_sizes(tiny_pipe(), {"dense": nullcontext}, SAMPLER, **wrong)
