from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diff_es.errors import InputError
from diff_es.schedule import groups_removed


@pytest.mark.parametrize(
    ("num_groups", "num_levels", "expected"),
    [
        (8, 4, (0, 2, 4, 6, 8)),
        (8, 16, (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8)),  # 0.5 is rounded up
        (5, 2, (0, 3, 5)),
        (3, 4, (0, 1, 2, 2, 3)),
        (1, 4, (0, 0, 1, 1, 1)),
        (512, 1, (0, 512)),
    ],
)
def test_known_cases(num_groups: int, num_levels: int, expected: tuple[int, ...]) -> None:
    assert groups_removed(num_groups, num_levels) == expected


@given(num_groups=st.integers(1, 20_000), num_levels=st.integers(1, 64))
def test_monotone_complete_and_never_half_a_group_off(num_groups: int, num_levels: int) -> None:
    counts = groups_removed(num_groups, num_levels)
    assert len(counts) == num_levels + 1
    assert counts[0] == 0
    assert counts[-1] == num_groups
    assert list(counts) == sorted(counts)
    for level, count in enumerate(counts):
        exact = Fraction(level * num_groups, num_levels)
        assert -Fraction(1, 2) < count - exact <= Fraction(1, 2) or count == exact


@pytest.mark.parametrize(("num_groups", "num_levels"), [(0, 4), (4, 0), (-1, 2)])
def test_less_than_one_is_refused(num_groups: int, num_levels: int) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        groups_removed(num_groups, num_levels)
