"""Shared test settings: slow tests only on request, few threads, no network."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models are so small that a second thread costs more than it does; read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--report", action="append", help="a report.html for the browser tests; repeat for several")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Have the garbage collector see what the test makes and nothing else: to count that among all takes a minute."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
