"""One Ray for all tests of a process; it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    pytest.importorskip("ray")
    from diff_es.execution.ray_cluster import connected  # noqa: PLC0415 (Ray is an extra)

    with connected("", cpus=4, gpus=False):
        yield
