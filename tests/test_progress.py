from __future__ import annotations

import pytest

from diff_es.progress import in_bytes, in_time

SIZES = {
    0: "0 kB",
    99_999: "100 kB",
    100_000: "0.1 MB",
    2_500_000: "2.5 MB",
    100_000_000: "0.1 GB",
    2_527_468_160: "2.5 GB",
}
TIMES = {0.2: "0 s", 89.0: "89 s", 90.0: "2 min", 700.0: "12 min", 5400.0: "1.5 h", 90_000.0: "25.0 h"}


@pytest.mark.parametrize(("count", "words"), SIZES.items())
def test_sizes(count: int, words: str) -> None:
    assert in_bytes(count) == words


@pytest.mark.parametrize(("seconds", "words"), TIMES.items())
def test_times(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
