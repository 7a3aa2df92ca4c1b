"""Names: duplicates refused, near misses suggested."""

from __future__ import annotations

import pytest

from diff_es.errors import InputError
from diff_es.registry import Registry, suggest


@pytest.fixture
def fruits() -> Registry[int]:
    registry: Registry[int] = Registry("fruit")
    assert registry.register("apple", 1) == 1
    registry.register("pear", 2)
    return registry


def test_entries_are_found_listed_and_counted(fruits: Registry[int]) -> None:
    assert fruits["pear"] == 2
    assert "apple" in fruits and "plum" not in fruits
    assert list(fruits) == ["apple", "pear"]
    assert len(fruits) == 2


def test_a_duplicate_is_refused_and_changes_nothing(fruits: Registry[int]) -> None:
    with pytest.raises(InputError, match="fruit 'apple' is already registered"):
        fruits.register("apple", 3)
    assert fruits["apple"] == 1


def test_an_unknown_name_is_answered_with_the_nearest(fruits: Registry[int]) -> None:
    with pytest.raises(InputError, match=r"Unknown fruit 'aple': did you mean 'apple'\? Known: apple, pear\."):
        fruits["aple"]
    with pytest.raises(InputError, match=r"Unknown fruit 'zzz': Known: apple, pear\."):
        fruits["zzz"]


def test_suggestions_of_nothing() -> None:
    assert suggest("x", []) == "Known: ."
