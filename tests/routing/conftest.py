"""One dense pipeline and one bank per method for the whole room; tests work on copies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.bank import Bank
from diff_es.calibration import CalibrationStats
from support import tiny_bank, tiny_pipe, tiny_stats


@cache
def _dense(activation: str) -> DiTPipeline:
    return tiny_pipe(activation)


@cache
def _stats(activation: str) -> CalibrationStats:
    return tiny_stats(_dense(activation))


@cache
def _bank(method: str, activation: str) -> Bank:
    return tiny_bank(_dense(activation), method, stats=_stats(activation))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def activation() -> str:
    """Override by parametrising: "geglu" has two halves of FFN rows."""
    return "gelu-approximate"


@pytest.fixture
def pipe(activation: str) -> DiTPipeline:
    return copy.deepcopy(_dense(activation))


@pytest.fixture
def method() -> str:
    """Override by parametrising."""
    return "obs+intercept"


@pytest.fixture
def bank(method: str, activation: str) -> Bank:
    return _bank(method, activation)
