"""OBS over several outputs and over groups of different size, against closed forms and a plain greedy loop."""

from __future__ import annotations

import pytest
import torch
from one_linear import solve
from test_obs import closed_form, correlated, relative_error

from diff_es.errors import InputError
from diff_es.pruning import ObsConfig, ObsFamily, ObsOutput, ObsTrajectory, obs_trajectory

CONFIG = ObsConfig(block_size=5)


def output(rows: int, columns: int, seed: int, share: float = 1.0) -> ObsOutput:
    weight, inputs = correlated(rows, columns, 4 * columns, seed)
    return ObsOutput(weight, inputs.T @ inputs / len(inputs), share)


def groups(first: int, count: int, size: int) -> torch.Tensor:
    return torch.arange(first, first + count * size).view(count, size)


def error_of_removal(own: ObsOutput, kept: torch.Tensor, damping: float) -> float:
    """tr(ΔW H ΔWᵀ) of the least-squares solution on the kept columns, with the damped H."""
    damped = own.hessian + damping * own.hessian.diagonal().mean() * torch.eye(len(own.hessian)).double()
    difference = own.weight.clone()
    difference[:, kept] -= closed_form(own.weight, own.hessian, kept, damping)
    return float(own.share * (difference @ damped @ difference.T).trace())


def kept_columns(own: int, families: list[ObsFamily], gone: list[set[int]], width: int) -> torch.Tensor:
    stays = torch.ones(width, dtype=torch.bool)
    for family, removed in zip(families, gone, strict=True):
        columns = family.columns[own]
        if columns is not None and removed:
            stays[columns[sorted(removed)].flatten()] = False
    return stays.nonzero().flatten()


def plain_greedy(outputs: list[ObsOutput], families: list[ObsFamily], damping: float) -> list[list[int]]:
    """Try every group, solve every output anew, take the one of least summed error."""
    gone: list[set[int]] = [set() for _ in families]
    orders: list[list[int]] = [[] for _ in families]
    for level in range(1, len(families[0].removals)):
        for index, family in enumerate(families):
            for _ in range(family.removals[level] - family.removals[level - 1]):
                count = len(next(columns for columns in family.columns if columns is not None))
                errors = {}
                for group in set(range(count)) - gone[index]:
                    tried = [own | {group} if i == index else own for i, own in enumerate(gone)]
                    errors[group] = sum(
                        error_of_removal(own, kept_columns(number, families, tried, len(own.hessian)), damping)
                        for number, own in enumerate(outputs)
                    )
                best = min(errors, key=errors.__getitem__)
                gone[index].add(best)
                orders[index].append(best)
    return orders


def assert_closed_form(
    solved: ObsTrajectory, outputs: list[ObsOutput], families: list[ObsFamily], tolerance: float = 1e-8
) -> None:
    for level, weights in enumerate(solved.levels):
        gone = [
            set(order[: family.removals[level]].tolist()) for order, family in zip(solved.orders, families, strict=True)
        ]
        for number, (own, weight) in enumerate(zip(outputs, weights, strict=True)):
            kept = kept_columns(number, families, gone, len(own.hessian))
            expected = closed_form(own.weight, own.hessian, kept, solved.damping)
            assert weight.shape == expected.shape
            assert relative_error(weight, expected) <= tolerance


@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.9, 0.1), (0.02, 0.98)])
def test_heads_that_feed_two_outputs_are_removed_by_their_summed_loss(shares: tuple[float, float]) -> None:
    outputs = [output(10, 24, 0, shares[0]), output(7, 24, 1, shares[1])]
    families = [ObsFamily((groups(0, 6, 4), groups(0, 6, 4)), (0, 1, 2, 4, 6))]
    solved = obs_trajectory(outputs, families, config=CONFIG, name="joint")
    assert_closed_form(solved, outputs, families)
    assert solved.orders[0].tolist() == plain_greedy(outputs, families, solved.damping)[0]


def test_the_share_of_an_output_decides() -> None:
    """With all the weight on one output the order is the one that this output alone would have."""
    first, second = output(10, 24, 0), output(7, 24, 1)
    orders = []
    for share in (1 - 1e-9, 1e-9):
        outputs = [
            ObsOutput(first.weight, first.hessian, share),
            ObsOutput(second.weight, second.hessian, 1 - share),
        ]
        families = [ObsFamily((groups(0, 6, 4), groups(0, 6, 4)), (0, 6))]
        orders.append(obs_trajectory(outputs, families, config=CONFIG, name="joint").orders[0].tolist())
    alone = [
        solve(own.weight, own.hessian, group_size=4, removals=(0, 6), config=CONFIG).order.tolist()
        for own in (first, second)
    ]
    assert orders == alone
    assert alone[0] != alone[1]


def test_heads_and_channels_of_one_output_compensate_each_other() -> None:
    outputs = [output(9, 12 + 20, 2)]
    families = [
        ObsFamily((groups(0, 4, 3),), (0, 1, 2, 3, 4)),
        ObsFamily((groups(12, 20, 1),), (0, 5, 10, 15, 20)),
    ]
    solved = obs_trajectory(outputs, families, config=CONFIG, name="parallel")
    assert_closed_form(solved, outputs, families)
    assert [order.tolist() for order in solved.orders] == plain_greedy(outputs, families, solved.damping)


@pytest.mark.parametrize("block_size", [1, 3, 64])
def test_the_block_size_changes_nothing(block_size: int) -> None:
    outputs = [output(9, 12 + 40, 3)]
    families = [ObsFamily((groups(0, 4, 3),), (0, 2, 4)), ObsFamily((groups(12, 40, 1),), (0, 17, 40))]
    solved = obs_trajectory(outputs, families, config=ObsConfig(block_size=block_size), name="parallel")
    expected = obs_trajectory(outputs, families, config=CONFIG, name="parallel")
    assert [order.tolist() for order in solved.orders] == [order.tolist() for order in expected.orders]
    assert_closed_form(solved, outputs, families)


def test_dead_columns_leave_first_and_keep_their_weight_until_then() -> None:
    weight, inputs = correlated(6, 16, 100, 5)
    inputs[:, 4:8] = 0.0
    own = ObsOutput(weight, inputs.T @ inputs, 1.0)
    families = [ObsFamily((groups(0, 2, 4),), (0, 0, 2)), ObsFamily((groups(8, 8, 1),), (0, 4, 8))]
    solved = obs_trajectory([own], families, config=CONFIG, name="dead")
    assert solved.orders[0].tolist()[0] == 1
    assert torch.equal(solved.levels[1][0][:, 4:8], weight[:, 4:8])


def test_broken_input_is_refused_by_name() -> None:
    own = output(6, 8, 6)
    broken = ObsOutput(own.weight * torch.nan, own.hessian, 1.0)
    with pytest.raises(InputError, match="attn: weight holds NaN"):
        obs_trajectory([own, broken], [ObsFamily((groups(0, 2, 4),) * 2, (0, 1))], config=CONFIG, name="attn")
