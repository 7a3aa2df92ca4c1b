"""The benchmarks are scripts: their folder is on the path of each, and here too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

#: Runs a benchmark with arguments in this process, and returns what it writes.
RunBenchmark: TypeAlias = Callable[..., dict[str, Any]]


@pytest.fixture
def run_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunBenchmark:
    def run(name: str, *arguments: object) -> dict[str, Any]:
        path = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *map(str, arguments), "--json", str(path)])
        import_module(name).main()
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    return run
