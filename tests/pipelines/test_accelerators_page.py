"""docs/accelerators.md is what its generator writes, and every test that it names is there."""

from __future__ import annotations

import ast
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


@cache
def generator() -> Any:
    name = "make_accelerators"
    spec = importlib.util.spec_from_file_location(name, TESTS.parent / "docs" / "make_accelerators.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up the types of their fields
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_generator_writes() -> None:
    made = generator()
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run `python docs/make_accelerators.py`"


def test_every_row_names_tests_that_exist() -> None:
    for row in generator().ROWS:
        assert row.tests, f"{row.what}: nothing shows it"
        for entry in row.tests:
            file, _, name = entry.partition(": ")
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, entry
