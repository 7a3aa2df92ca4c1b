from __future__ import annotations

import math

import pytest

from diff_es.errors import InputError
from diff_es.pruning.pruners import stack_order


def test_largest_similarity_first_and_ties_by_lowest_index() -> None:
    assert stack_order([0.1, 0.9, 0.5, 0.9]).tolist() == [1, 3, 2, 0]


def test_a_similarity_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        stack_order([0.5, math.nan])


def test_a_block_without_similarity_is_refused() -> None:
    with pytest.raises(InputError, match=r"calibrate with collect=\('similarity',\)"):
        stack_order([0.5, None])
