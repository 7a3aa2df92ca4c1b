"""A search killed by SIGKILL at random moments ends as one that was left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diff_es.search import EvolutionConfig, Journal, JournalHeader, SearchResult, search_schedule

from .journals import sorted_keys
from .spaces import space_of

SPACE = space_of((2, 2, 1, 3, 2), 8, 0.5)
CONFIG = EvolutionConfig(generations=20, seed=5)
HEADER = JournalHeader("killed", SPACE, CONFIG)


def run(path: Path, pause: float) -> SearchResult:
    """Search on a landscape without structure; an evaluation takes `pause` seconds."""

    def fitness(levels: tuple[int, ...]) -> float:
        time.sleep(pause)
        return random.Random(repr(levels)).random()

    with Journal(path, HEADER) as journal:
        return search_schedule(fitness, SPACE, CONFIG, journal)


@pytest.mark.slow
def test_killed_twenty_times_equals_uninterrupted(tmp_path: Path) -> None:
    expected = run(tmp_path / "straight", 0)
    path, moments = tmp_path / "killed", random.Random(1)
    program = "import sys; from search.test_kill import *; run(Path(sys.argv[1]), 0.01)"
    lines = []
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[1])
        before = lines[-1] if lines else 0
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") <= before):
            time.sleep(0.01)  # until it has written something new
        time.sleep(0.15 * moments.random())
        process.kill()
        process.wait()
        lines.append(path.read_bytes().count(b"\n"))
    assert lines == sorted(set(lines)), "every run got further"
    assert lines[-1] < expected.evaluated, "the last kill came before the end"
    assert run(path, 0) == expected
    with Journal(path, HEADER) as killed, Journal(tmp_path / "straight", HEADER) as straight:
        assert sorted_keys(killed) == sorted_keys(straight)
