"""One finished run for the whole session."""

from __future__ import annotations

import pytest

from run.tiny_run import Finished, finished_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp())
