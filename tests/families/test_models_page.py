"""docs/models.md says what the contracts find."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


@torch.no_grad()
def test_the_models_page_is_what_the_contracts_find(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_models", DOCS / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert (DOCS / "models.md").read_text(encoding="utf-8") == module.page(), "run: python docs/make_models.py"
