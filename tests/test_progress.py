from __future__ import annotations

import pytest

from diff_es.progress import in_bytes, in_time

SIZES = {
    0: "0 KiB",
    100_000: "98 KiB",
    105_000: "0.1 MiB",
    2_621_440: "2.5 MiB",
    2**30 // 10 + 1: "0.1 GiB",
    2_527_468_160: "2.4 GiB",
}
TIMES = {0.2: "0 s", 89.0: "89 s", 90.0: "2 min", 700.0: "12 min", 5400.0: "1.5 h", 90_000.0: "25.0 h"}


@pytest.mark.parametrize(("count", "words"), SIZES.items())
def test_sizes(count: int, words: str) -> None:
    assert in_bytes(count) == words


@pytest.mark.parametrize(("seconds", "words"), TIMES.items())
def test_times(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
