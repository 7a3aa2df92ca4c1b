from __future__ import annotations

import pytest
import torch
from one_linear import group_columns, solve

from diff_es.errors import InputError
from diff_es.pruning import ObsConfig, centred_hessian, compensate_bias, damped_hessian

TINY = ObsConfig(damping=1e-10)


def biased_inputs(samples: int = 200, columns: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight (8, columns), bias (8,), inputs (samples, columns) with a mean far from zero, float64."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(8, columns, generator=generator, dtype=torch.float64)
    bias = torch.randn(8, generator=generator, dtype=torch.float64)
    inputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    inputs = inputs + inputs @ torch.randn(columns, columns, generator=generator, dtype=torch.float64) / 4
    return weight, bias, inputs + 3 * torch.randn(columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("with_bias", [True, False])
def test_centred_solution_is_the_least_squares_with_an_intercept(group_size: int, with_bias: bool) -> None:
    weight, bias, inputs = biased_inputs()
    mean = inputs.mean(dim=0)
    hessian = centred_hessian(inputs.T @ inputs / len(inputs), mean)
    half = 12 // group_size
    trajectory = solve(weight, hessian, group_size=group_size, removals=(0, half), config=TINY, name="block")
    level = trajectory.levels[1]
    columns = group_columns(level.kept, group_size)
    new_bias = compensate_bias(weight, mean, columns, level.weight, bias if with_bias else None)
    target = inputs @ weight.T + (bias if with_bias else 0.0)
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([inputs[:, columns], ones], dim=1), target).solution
    torch.testing.assert_close(level.weight, solution[:-1].T, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(new_bias, solution[-1], rtol=1e-6, atol=1e-6)


def test_centring_lowers_the_error_when_inputs_have_a_mean() -> None:
    weight, bias, inputs = biased_inputs()
    mean, moment = inputs.mean(dim=0), inputs.T @ inputs / len(inputs)
    target = inputs @ weight.T + bias
    errors = {}
    for name, hessian in (("raw", moment), ("centred", centred_hessian(moment, mean))):
        level = solve(weight, hessian, group_size=1, removals=(0, 12), config=TINY, name="b").levels[1]
        shift = compensate_bias(weight, mean, level.kept, level.weight, bias) if name == "centred" else bias
        errors[name] = float((inputs[:, level.kept] @ level.weight.T + shift - target).square().mean())
    assert errors["centred"] < errors["raw"]


def test_a_constant_column_goes_first_and_into_the_bias() -> None:
    weight, bias, inputs = biased_inputs()
    inputs[:, 5] = 7.0
    single = inputs.float()
    mean = single.mean(dim=0)
    hessian = centred_hessian(single.T @ single / len(single), mean)  # accumulated in float32
    assert hessian[5].abs().max() == 0
    trajectory = solve(weight, hessian, group_size=1, removals=(0, 1), config=ObsConfig(), name="block")
    assert trajectory.order.tolist() == [5]
    level = trajectory.levels[1]
    new_bias = compensate_bias(weight, mean, level.kept, level.weight, bias)
    expected = inputs @ weight.T + bias
    torch.testing.assert_close(inputs[:, level.kept] @ level.weight.T + new_bias, expected, rtol=1e-5, atol=1e-4)


def test_nothing_removed_leaves_the_bias_as_it_was() -> None:
    weight, bias, inputs = biased_inputs()
    kept = torch.arange(weight.shape[1])
    torch.testing.assert_close(compensate_bias(weight, inputs.mean(dim=0), kept, weight, bias), bias)


def test_covariance_equals_torch_cov() -> None:
    _, _, inputs = biased_inputs()
    centred = centred_hessian(inputs.T @ inputs / len(inputs), inputs.mean(dim=0))
    torch.testing.assert_close(centred, torch.cov(inputs.T, correction=0))


def test_sums_in_place_of_means_are_refused() -> None:
    _, _, inputs = biased_inputs()
    with pytest.raises(InputError, match="divide both by the same sample count"):
        centred_hessian(inputs.T @ inputs / len(inputs), inputs.sum(dim=0))
    with pytest.raises(InputError, match="give \\(d, d\\) and \\(d,\\)"):
        centred_hessian(inputs.T @ inputs, inputs.mean(dim=0)[:3])


def test_damping_is_relative_to_the_mean_over_live_columns() -> None:
    hessian = torch.diag(torch.tensor([0.0, 2.0, 4.0], dtype=torch.float32))
    expected = torch.diag(torch.tensor([0.3, 2.3, 4.3], dtype=torch.float64))
    torch.testing.assert_close(damped_hessian(hessian, 0.1), expected)
    assert hessian[0, 0] == 0
