from __future__ import annotations

import math

import pytest
import torch

from diff_es.errors import InputError
from diff_es.pruning import layerdrop


@pytest.mark.parametrize("shape", [(3, 16, 8), (5, 4, 6, 6), (1, 7)])
def test_similarity_equals_torchs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = x + torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.cosine_similarity(x.flatten(1), y.flatten(1), dim=1).mean()
    torch.testing.assert_close(layerdrop.block_similarity(x, y), expected, rtol=1e-12, atol=0)


def test_samples_count_equally_whatever_their_size() -> None:
    x = torch.tensor([[1.0, 0.0], [1000.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [1000.0, 0.0]])
    assert float(layerdrop.block_similarity(x, y)) == pytest.approx(0.5)


def test_identity_scale_and_zero() -> None:
    x = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert float(layerdrop.block_similarity(x, 3 * x)) == pytest.approx(1.0)
    assert float(layerdrop.block_similarity(x, -x)) == pytest.approx(-1.0)
    assert float(layerdrop.block_similarity(x, torch.zeros_like(x))) == 0.0


def test_half_precision_does_not_overflow() -> None:
    x = torch.full((2, 4096), 300.0, dtype=torch.float16)  # the squared norm overflows float16
    assert float(layerdrop.block_similarity(x, x)) == pytest.approx(1.0)


def test_largest_similarity_first_and_ties_by_lowest_index() -> None:
    assert layerdrop.removal_order(torch.tensor([0.1, 0.9, 0.5, 0.9])).tolist() == [1, 3, 2, 0]


def test_bad_inputs_are_refused() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(InputError, match="cannot be compared"):
        layerdrop.block_similarity(x, torch.ones(2, 4))
    with pytest.raises(InputError, match="cannot be compared"):
        layerdrop.block_similarity(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(InputError, match="NaN"):
        layerdrop.block_similarity(x, torch.full_like(x, math.nan))
