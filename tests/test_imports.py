"""Imports go one way through the rooms; the search and the schedules need no torch."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "diff_es"

#: From the command line down to the foundation. A room may import the rooms of lower rows, and itself.
ROWS: tuple[frozenset[str], ...] = tuple(
    frozenset(row.split())
    for row in (
        "__main__",
        "__init__ cli",
        "views",
        "reproduce",
        "run",
        "report",
        "evaluation fitness allocation baselines",
        "routing pruning",
        "calibration bank pipelines",
        "denoisers metrics search zoo",
        "recipe timesteps",
        "images prompts sampling schedulers tensors",
        "stages schedule versions",
        "artifacts ending execution registry progress",
        "errors",
    )
)


def room_of(path: Path) -> str:
    """The room of a source file: its folder in the package, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import; the house writes absolute ones."
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_rooms(path: Path) -> set[str]:
    parts = (module.split(".") for module in imported_modules(path))
    rooms = {part[1] for part in parts if part[0] == "diff_es" and len(part) > 1}
    return {room for room in rooms if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()}


@cache
def rank(room: str) -> int:
    """The row of a room."""
    rows = [number for number, row in enumerate(ROWS) if room in row]
    assert rows, f"The room {room!r} has no place in the import order; add it to ROWS."
    return rows[0]


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_lower_rooms(path: Path) -> None:
    room = room_of(path)
    upward = {other for other in imported_rooms(path) - {room} if rank(other) <= rank(room)}
    assert not upward, f"{room} imports {sorted(upward)}, which do not lie below it."


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("routing", {"pruning", "calibration"}),
        ("denoisers", {"pruning", "calibration", "bank", "routing"}),
        ("metrics", {"denoisers", "routing"}),
        ("search", {"denoisers", "bank", "routing", "fitness", "metrics"}),
    ],
)
def test_rooms_that_must_not_know_each_other(room: str, forbidden: set[str]) -> None:
    for path in SOURCES:
        if room_of(path) == room:
            assert not imported_rooms(path) & forbidden, path


@pytest.mark.parametrize("room", ["search", "schedule", "stages", "registry", "errors", "progress", "execution"])
def test_no_torch_behind_these_rooms(room: str) -> None:
    """Follows the imports through the package (its own `__init__` aside, which offers everything)."""
    waiting, seen = {room}, set[str]()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for path in SOURCES:
            if room_of(path) == current:
                roots = {module.split(".")[0] for module in imported_modules(path)}
                heavy = roots & {"torch", "diffusers", "transformers", "torchmetrics", "accelerate"}
                assert not heavy, f"{path} imports {sorted(heavy)}."
                waiting |= imported_rooms(path) - seen - {"__init__"}


def test_the_walk_sees_every_kind_of_import(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nimport a.b as c\nif TYPE_CHECKING:\n    from d import e\n"
        "def f():\n    import g\n    from diff_es import search\n"
    )
    assert imported_modules(source) == {
        *("typing", "typing.TYPE_CHECKING", "a.b", "d", "d.e", "g", "diff_es", "diff_es.search")
    }
    assert imported_rooms(source) == {"search"}
