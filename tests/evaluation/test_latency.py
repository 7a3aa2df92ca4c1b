"""Order of the runs, percentiles, and words for a slow-down."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import torch

from diff_es.errors import InputError
from diff_es.evaluation import LatencyRecord, describe_speedup, measure_latency, speedup


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
