from __future__ import annotations

import pytest
import torch

from diff_es.errors import InputError
from diff_es.pruning import taylor


def values(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def test_a_head_owns_its_slices_of_rows_and_columns() -> None:
    """Three heads; q and k have two rows each, v and the output projection four (cross-attention may differ)."""
    rows = [values(6, 0), values(6, 1), values(12, 2)]
    columns = values(12, 3)
    expected = []
    for head in range(3):
        total = sum(float(rows[0][i]) + float(rows[1][i]) for i in (2 * head, 2 * head + 1))
        total += sum(float(rows[2][i]) + float(columns[i]) for i in range(4 * head, 4 * head + 4))
        expected.append(total)
    found = taylor.group_importance([*rows, columns], 3)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("halves", [1, 2])
def test_a_channel_owns_its_row_in_every_half_and_its_column(halves: int) -> None:
    rows, columns = values(7 * halves, 0), values(7, 1)
    expected = [sum(float(rows[c + 7 * half]) for half in range(halves)) + float(columns[c]) for c in range(7)]
    assert taylor.group_importance([*rows.chunk(halves), columns], 7).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rows", "columns", "num_groups"), [(7, 8, 4), (8, 7, 4), (8, 8, 0)])
def test_lengths_that_do_not_fit_are_refused(rows: int, columns: int, num_groups: int) -> None:
    with pytest.raises(InputError, match=f"for {num_groups} groups"):
        taylor.group_importance([values(rows, 0), values(columns, 1)], num_groups)
    with pytest.raises(InputError, match=r"importance of shape \(2, 4\)"):
        taylor.group_importance([torch.ones(2, 4), torch.ones(4)], 4)
