from __future__ import annotations

import math

import pytest
import torch

from diff_es.errors import InputError
from diff_es.pruning import wanda
from diff_es.pruning.ranking import ascending_order


def random_weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def input_norms(columns: int, seed: int) -> torch.Tensor:
    tokens = torch.randn(50, columns, generator=torch.Generator().manual_seed(seed))
    return tokens.norm(dim=0)


def naive_head_score(weights: list[torch.Tensor], norms: list[torch.Tensor], num_heads: int, head: int) -> float:
    """Equation 7, element by element."""
    row_sums = []
    for weight, norm in zip(weights, norms, strict=True):
        head_dim = weight.shape[0] // num_heads
        for i in range(head * head_dim, (head + 1) * head_dim):
            row_sums.append(sum(abs(float(weight[i, j])) * float(norm[j]) for j in range(weight.shape[1])))
    return sum(row_sums) / len(row_sums)


def naive_channel_score(weight: torch.Tensor, norm: torch.Tensor, channel: int) -> float:
    """Equation 8, element by element."""
    return sum(abs(float(weight[channel, j])) * float(norm[j]) for j in range(len(norm))) / len(norm)


def test_heads_equal_the_naive_double_loop() -> None:
    weights = [random_weight(12, 10, 0), random_weight(12, 6, 1), random_weight(12, 6, 2)]  # cross-attention
    norms = [input_norms(10, 3), input_norms(6, 4), input_norms(6, 4)]
    scores = wanda.head_scores(weights, norms, 4)
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx([naive_head_score(weights, norms, 4, head) for head in range(4)], rel=1e-12)


def test_channels_equal_the_naive_double_loop() -> None:
    weight, norms = random_weight(9, 7), input_norms(7, 1)
    expected = [naive_channel_score(weight, norms, c) for c in range(9)]
    assert wanda.channel_scores(weight, norms).tolist() == pytest.approx(expected, rel=1e-12)


def test_input_norms_change_the_order() -> None:
    weight = torch.tensor([[1.0, 3.0], [2.0, 0.1]])
    assert ascending_order(wanda.channel_scores(weight, torch.ones(2))).tolist() == [1, 0]
    assert ascending_order(wanda.channel_scores(weight, torch.tensor([10.0, 0.1]))).tolist() == [0, 1]


def test_lowest_score_first_and_ties_by_lowest_index() -> None:
    assert ascending_order(torch.tensor([2.0, 1.0, 2.0, 0.5, 1.0])).tolist() == [3, 1, 4, 0, 2]
    assert ascending_order(torch.zeros(300)).tolist() == list(range(300))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"groups \[1\]"):
        ascending_order(torch.tensor([1.0, value]))


def test_half_precision_weights_are_scored_in_float64() -> None:
    weight = torch.full((2, 4096), 30.0, dtype=torch.float16)  # the sum overflows float16
    assert wanda.channel_scores(weight, torch.ones(4096)).tolist() == [30.0, 30.0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    weight = random_weight(8, 5)
    with pytest.raises(InputError, match="num_heads is 3"):
        wanda.head_scores([weight], [torch.ones(5)], 3)
    with pytest.raises(InputError, match="one norm vector per weight"):
        wanda.head_scores([weight, weight], [torch.ones(5)], 2)
    with pytest.raises(InputError, match="give \\(rows, inputs\\)"):
        wanda.head_scores([weight], [torch.ones(4)], 2)
    with pytest.raises(InputError, match="give \\(rows, inputs\\)"):
        wanda.channel_scores(weight, torch.ones(4))
