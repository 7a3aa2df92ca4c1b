"""The knapsack over layers against brute force."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diff_es.allocation import Frontier
from diff_es.errors import InputError

TABLES = st.integers(1, 4).flatmap(
    lambda layers: st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=4),
        min_size=layers,
        max_size=layers,
    )
)


@settings(max_examples=300, deadline=None)
@given(TABLES)
def test_every_limit_is_met_with_the_least_error(table: list[list[tuple[int, int]]]) -> None:
    """Small whole numbers, so that ties and dominated choices are common and sums are exact."""
    costs = [[cost for cost, _ in row] for row in table]
    errors = [[float(error) for _, error in row] for row in table]
    frontier = Frontier(costs, errors)
    choices = [
        (sum(row[level][0] for row, level in zip(table, levels, strict=True)), levels)
        for levels in product(*(range(len(row)) for row in table))
    ]

    def error_of(levels: tuple[int, ...]) -> float:
        return sum(row[level] for row, level in zip(errors, levels, strict=True))

    cheapest = min(cost for cost, _ in choices)
    for limit in range(cheapest, max(cost for cost, _ in choices) + 2):
        best = frontier.best(limit)
        assert sum(row[level] for row, level in zip(costs, best, strict=True)) <= limit
        assert error_of(best) == min(error_of(levels) for cost, levels in choices if cost <= limit)
    with pytest.raises(InputError, match=rf"limit={cheapest - 1} is below the cheapest choice, {cheapest}"):
        frontier.best(cheapest - 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=4))
def test_errors_of_any_size(errors: list[list[float]]) -> None:
    """Equal layers with five levels: as measured errors are, real numbers over whole costs."""
    costs = [[4, 3, 2, 1, 0]] * len(errors)
    frontier = Frontier(costs, errors)
    for limit in range(4 * len(errors) + 1):
        best = frontier.best(limit)
        found = sum(row[level] for row, level in zip(errors, best, strict=True))
        least = min(
            sum(row[level] for row, level in zip(errors, levels, strict=True))
            for levels in product(range(5), repeat=len(errors))
            if sum(4 - level for level in levels) <= limit
        )
        assert found == pytest.approx(least, rel=1e-12, abs=1e-300)


def test_unusable_tables_are_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        Frontier([], [])
    with pytest.raises(InputError, match="same levels"):
        Frontier([[1, 0]], [[0.0]])
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="errors of layer 1 are not finite"):
            Frontier([[1, 0], [1, 0]], [[0.0, 1.0], [0.0, value]])
