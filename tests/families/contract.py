"""What every family is held to: a contract is a test of one argument, the family, that also the documents can ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeAlias

import pytest
import torch

from families.family import Family
from families.registry import FAMILIES

Contract: TypeAlias = Callable[[Family], None]

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def contract(check: Contract) -> Contract:
    """Run a test over every family; asked again for the same one, it answers from memory."""
    kept: set[Family] = set()

    @wraps(check)
    def once(family: Family) -> None:
        if family not in kept:
            with torch.no_grad():
                check(family)
            kept.add(family)

    marked: Contract = every_family(once)
    return marked
