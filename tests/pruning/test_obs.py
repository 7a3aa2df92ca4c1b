from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_linear import Solved, group_columns, solve
from plain_obs import plain_obs

from diff_es.errors import InputError
from diff_es.pruning import ObsConfig
from diff_es.pruning.obs import rising_damping
from diff_es.pruning.obs_channels import ChannelSolver

CONFIG = ObsConfig()


def correlated(rows: int, columns: int, samples: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (rows, columns) and correlated inputs of unequal scale (samples, columns), float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64) / columns**0.5
    scales = torch.exp(0.7 * torch.randn(columns, generator=generator, dtype=torch.float64))
    inputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    return weight, (inputs + 2 * inputs @ mixing) * scales


def layer(rows: int, columns: int, samples: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    weight, inputs = correlated(rows, columns, samples, seed)
    return weight, inputs.T @ inputs


def closed_form(weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor, damping: float) -> torch.Tensor:
    """`W H[:, K] H[K, K]^-1` with the damped H."""
    damped = hessian + damping * hessian.diagonal()[hessian.diagonal() > 0].mean() * torch.eye(len(hessian)).double()
    return torch.linalg.solve(damped[kept][:, kept], (weight @ damped[:, kept]).T).T


def lower_triangle(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.tril() + matrix.tril(-1).T


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max()) if expected.numel() else 0.0


def assert_closed_form(
    trajectory: Solved, weight: torch.Tensor, hessian: torch.Tensor, group_size: int, tolerance: float = 1e-8
) -> None:
    for level in trajectory.levels:
        kept = group_columns(level.kept, group_size)
        expected = closed_form(weight, hessian, kept, trajectory.damping)
        assert level.weight.shape == expected.shape
        assert relative_error(level.weight.double(), expected) <= tolerance


@pytest.mark.parametrize(
    ("group_size", "removals"),
    [
        (1, tuple(range(0, 97, 6))),
        (1, (0, 1, 2, 50, 50, 95, 96)),
        (4, tuple(range(0, 25, 3))),
        (16, (0, 1, 2, 3, 4, 5, 6)),
        (16, (0, 4)),
        (96, (0, 0, 1)),
    ],
)
@pytest.mark.parametrize("block_size", [1, 7, 32, 500])
def test_every_level_equals_the_closed_form(group_size: int, removals: tuple[int, ...], block_size: int) -> None:
    weight, hessian = layer(rows=20, columns=96, samples=300)
    config = ObsConfig(block_size=block_size)
    trajectory = solve(weight, hessian, group_size=group_size, removals=removals, config=config, name="block")
    assert_closed_form(trajectory, weight, hessian, group_size)
    for removed, level in zip(removals, trajectory.levels, strict=True):
        gone = set(trajectory.order[:removed].tolist())
        assert level.kept.tolist() == [group for group in range(96 // group_size) if group not in gone]
    assert len(trajectory.order) == removals[-1]
    assert trajectory.order.dtype == torch.int64


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    columns=st.integers(1, 40),
    rows=st.integers(1, 12),
    block_size=st.integers(1, 50),
    cuts=st.lists(st.floats(0, 1), max_size=5),
)
def test_random_shapes_and_cuts_agree_with_the_plain_loop(
    seed: int, columns: int, rows: int, block_size: int, cuts: list[float]
) -> None:
    weight, hessian = layer(rows, columns, samples=2 * columns + 3, seed=seed)
    removals = (0, *sorted(int(cut * columns) for cut in cuts))
    trajectory = solve(
        weight, hessian, group_size=1, removals=removals, config=ObsConfig(block_size=block_size), name="block"
    )
    order, _, plain_weights = plain_obs(weight, hessian, removals, CONFIG.damping)
    assert trajectory.order.tolist() == order
    for level, expected in zip(trajectory.levels, plain_weights, strict=True):
        assert relative_error(level.weight, expected[:, level.kept]) <= 1e-8


@pytest.mark.parametrize("in_place", [False, True])
def test_blocked_solver_keeps_the_sets_and_weights_of_the_plain_loop(in_place: bool) -> None:
    weight, hessian = layer(rows=64, columns=256, samples=600)
    removals = tuple(range(0, 256, 16))
    trajectory = solve(weight, hessian, group_size=1, removals=removals, config=CONFIG, name="ff")
    order, plain_kept, plain_weights = plain_obs(weight, hessian, removals, CONFIG.damping, in_place=in_place)
    assert trajectory.order.tolist() == order
    for level, kept, expected in zip(trajectory.levels, plain_kept, plain_weights, strict=True):
        assert torch.equal(level.kept, kept)
        assert relative_error(level.weight, expected[:, kept]) <= 1e-9


def test_columns_removed_in_blocks_are_those_removed_as_groups() -> None:
    """Groups of two columns, of which one is always zero, are single columns in disguise."""
    weight, hessian = layer(rows=10, columns=24, samples=80)
    padded_weight, padded_hessian = torch.zeros(10, 48).double(), torch.zeros(48, 48).double()
    padded_weight[:, ::2], padded_weight[:, 1::2] = weight, 5.0
    padded_hessian[::2, ::2] = hessian
    removals = (0, 6, 12, 23)
    single = solve(weight, hessian, group_size=1, removals=removals, config=CONFIG, name="a")
    double = solve(padded_weight, padded_hessian, group_size=2, removals=removals, config=CONFIG, name="b")
    assert torch.equal(single.order, double.order)
    for narrow, wide in zip(single.levels, double.levels, strict=True):
        assert relative_error(wide.weight[:, ::2], narrow.weight) <= 1e-10


@pytest.mark.parametrize("group_size", [1, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_each_removal_is_the_best_by_true_least_squares(group_size: int, seed: int) -> None:
    weight, inputs = correlated(rows=5, columns=18, samples=50, seed=seed)
    damping = 0.01 * inputs.square().sum(dim=0).mean()
    samples = torch.cat([inputs, damping.sqrt() * torch.eye(18).double()])  # damping as 18 further samples
    left = list(range(18 // group_size))
    expected = []
    for _ in range(3):
        losses = [_loss_without(weight, samples, [g for g in left if g != gone], group_size) for gone in left]
        expected.append(left.pop(min(range(len(losses)), key=losses.__getitem__)))
    trajectory = solve(weight, inputs.T @ inputs, group_size=group_size, removals=(0, 3), config=CONFIG, name="block")
    assert trajectory.order.tolist() == expected


def _loss_without(weight: torch.Tensor, samples: torch.Tensor, kept: list[int], group_size: int) -> float:
    columns = samples[:, group_columns(torch.tensor(kept, dtype=torch.int64), group_size)]
    target = samples @ weight.T
    solution = torch.linalg.lstsq(columns, target).solution
    return float((columns @ solution - target).square().sum())


def test_fewer_samples_than_columns_still_match_the_closed_form() -> None:
    weight, hessian = layer(rows=8, columns=64, samples=20)
    for group_size in (1, 16):
        count = 64 // group_size
        trajectory = solve(
            weight, hessian, group_size=group_size, removals=(0, count // 2, count), config=CONFIG, name="block"
        )
        assert trajectory.damping == CONFIG.damping
        assert_closed_form(trajectory, weight, hessian, group_size)


@pytest.mark.parametrize("group_size", [1, 4])
def test_a_hessian_that_rounding_made_unsymmetric_counts_by_its_lower_triangle(group_size: int) -> None:
    weight, hessian = layer(rows=8, columns=32, samples=100)
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(3)).double()
    noisy = hessian + 1e-6 * hessian.diagonal().max() * noise
    trajectory = solve(weight, noisy, group_size=group_size, removals=(0, 3, 6), config=CONFIG, name="block")
    assert_closed_form(trajectory, weight, lower_triangle(noisy), group_size)


@pytest.mark.parametrize("group_size", [1, 4])
def test_singular_hessian_without_enough_damping_names_the_layer(group_size: int) -> None:
    weight, hessian = layer(rows=8, columns=64, samples=20)
    config = ObsConfig(damping=1e-30, max_damping=1e-25)
    with pytest.raises(InputError, match=r"blocks\.3\.ff: the Hessian is not positive definite.*max_damping"):
        solve(weight, hessian, group_size=group_size, removals=(0, 64 // group_size), config=config, name="blocks.3.ff")


def test_damping_is_raised_and_recorded_where_the_factorisation_fails(caplog: pytest.LogCaptureFixture) -> None:
    weight, hessian = layer(rows=8, columns=32, samples=20)
    values, vectors = torch.linalg.eigh(hessian)
    values[0] = -0.05 * hessian.diagonal().mean()  # as a Hessian accumulated in too few bits may be
    broken = vectors @ torch.diag(values) @ vectors.T
    with caplog.at_level(logging.WARNING):
        trajectory = solve(weight, broken, group_size=1, removals=(0, 9, 20), config=CONFIG, name="mid.attn")
    assert trajectory.damping == pytest.approx(0.1)
    assert "mid.attn" in caplog.text
    assert_closed_form(trajectory, weight, lower_triangle(broken), 1)


@pytest.mark.parametrize("block_size", [1, 2, 4, 128])
def test_an_inverse_that_became_indefinite_gives_more_damping_its_turn(block_size: int) -> None:
    weight, noise = correlated(rows=8, columns=32, samples=32)
    vectors = torch.linalg.qr(noise).Q
    values = torch.linspace(0.5, 1.5, 32, dtype=torch.float64)
    values[:3] = -0.05  # as rounding may leave it

    def damped(share: float) -> tuple[float, ChannelSolver]:
        solver = ChannelSolver(weight, vectors @ torch.diag(values + share) @ vectors.T, block_size)
        solver.remove(32)
        return share, solver

    share, solver = rising_damping(damped, CONFIG, "block")
    assert share == pytest.approx(0.1)
    assert sorted(solver.order().tolist()) == list(range(32))


@pytest.mark.parametrize("block_size", [1, 2, 4, 128])
def test_rounding_never_gives_weights_that_are_no_numbers(block_size: int) -> None:
    """Ten samples for 40 columns, and a damping that is lost in rounding."""
    weight, hessian = layer(rows=8, columns=40, samples=10)
    config = ObsConfig(damping=1e-15, block_size=block_size)
    trajectory = solve(weight, hessian, group_size=1, removals=(0, 20, 38), config=config, name="block")
    assert len(set(trajectory.order.tolist())) == 38
    assert all(bool(torch.isfinite(level.weight).all()) for level in trajectory.levels)


@pytest.mark.parametrize("group_size", [1, 4])
def test_dead_columns_leave_first_and_keep_their_weight_until_then(group_size: int) -> None:
    weight, inputs = correlated(rows=6, columns=32, samples=100)
    weight *= 1e-3
    dead = torch.arange(8, 16)
    weight[:, dead] = 1e6  # large weights on inputs that are always zero cost nothing
    inputs[:, dead] = 0.0
    hessian = inputs.T @ inputs
    groups = 8 // group_size
    removals = (0, 1, groups, groups + 2)
    trajectory = solve(weight, hessian, group_size=group_size, removals=removals, config=CONFIG, name="block")
    assert trajectory.order[:groups].tolist() == list(range(groups, 2 * groups))
    assert_closed_form(trajectory, weight, hessian, group_size)
    partly = trajectory.levels[1]
    columns = group_columns(partly.kept, group_size)
    still = torch.isin(columns, dead)
    assert bool(still.any()) == (groups > 1)
    assert bool((partly.weight[:, still] == 1e6).all())


@pytest.mark.parametrize("group_size", [1, 2])
def test_equal_scores_leave_by_lowest_index(group_size: int) -> None:
    weight = torch.ones(3, 20, dtype=torch.float64)
    trajectory = solve(
        weight,
        torch.eye(20, dtype=torch.float64),
        group_size=group_size,
        removals=(0, 20 // group_size),
        config=ObsConfig(block_size=6),
        name="block",
    )
    assert trajectory.order.tolist() == list(range(20 // group_size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_level_zero_is_the_given_tensor_and_nothing_given_is_changed(dtype: torch.dtype) -> None:
    weight, hessian = layer(rows=6, columns=24, samples=60)
    weight = weight.to(dtype).requires_grad_()
    hessian = hessian.float()
    weight_before, hessian_before = weight.detach().clone(), hessian.clone()
    trajectory = solve(weight, hessian, group_size=1, removals=(0, 12), config=CONFIG, name="block")
    assert trajectory.levels[0].weight.data_ptr() == weight.data_ptr()
    assert trajectory.levels[0].weight.dtype == dtype
    assert trajectory.levels[1].weight.dtype == torch.float64
    assert trajectory.levels[1].weight.is_contiguous()
    assert not trajectory.levels[1].weight.requires_grad
    assert torch.equal(weight.detach(), weight_before)
    assert torch.equal(hessian, hessian_before)


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e8])
@pytest.mark.parametrize("group_size", [1, 8])
def test_the_hessians_scale_changes_nothing(factor: float, group_size: int) -> None:
    weight, hessian = layer(rows=6, columns=24, samples=60)
    run = {"group_size": group_size, "removals": (0, 1, 2), "config": CONFIG, "name": "block"}
    plain, scaled = solve(weight, hessian, **run), solve(weight, factor * hessian, **run)
    assert torch.equal(plain.order, scaled.order)
    assert relative_error(scaled.levels[-1].weight, plain.levels[-1].weight) <= 1e-9


def _bad(change: str) -> tuple[torch.Tensor, torch.Tensor]:
    weight, hessian = layer(rows=4, columns=8, samples=30)
    if change == "nan weight":
        weight[1, 2] = math.nan
    elif change == "infinite weight":
        weight[1, 2] = math.inf
    elif change == "nan hessian":
        hessian[3, 4] = math.nan
    elif change == "negative":
        hessian = -hessian
    elif change == "zero":
        hessian.zero_()
    elif change == "asymmetric":
        hessian[0, 5] += hessian.diagonal().max()
    elif change == "shape":
        hessian = hessian[:6, :6]
    return weight, hessian


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan weight", "weight holds NaN"),
        ("infinite weight", "weight holds NaN or infinity"),
        ("nan hessian", "hessian holds NaN"),
        ("negative", "negative diagonal"),
        ("zero", "all zero"),
        ("asymmetric", "not symmetric"),
        ("shape", "give \\(rows, columns\\)"),
    ],
)
@pytest.mark.parametrize("group_size", [1, 4])
def test_bad_tensors_are_one_error_that_names_the_layer(change: str, message: str, group_size: int) -> None:
    weight, hessian = _bad(change)
    with pytest.raises(InputError, match=rf"blocks\.0\.attn.*: .*{message}|blocks\.0\.attn: {message}"):
        solve(weight, hessian, group_size=group_size, removals=(0, 1), config=CONFIG, name="blocks.0.attn")


@pytest.mark.parametrize(("group_size", "removals"), [(1, ()), (1, (1, 2)), (1, (0, 3, 2)), (4, (0, 3))])
def test_bad_removals_are_refused(group_size: int, removals: tuple[int, ...]) -> None:
    weight, hessian = layer(rows=4, columns=8, samples=30)
    with pytest.raises(InputError, match="block: removals is"):
        solve(weight, hessian, group_size=group_size, removals=removals, config=CONFIG, name="block")


@pytest.mark.parametrize(
    "fields",
    [
        {"damping": 0.0},
        {"damping": math.nan},
        {"damping": math.inf},
        {"damping": 0.1, "max_damping": 0.01},
        {"max_damping": math.nan},
        {"block_size": 0},
    ],
)
def test_bad_settings_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(reversed(fields))):
        ObsConfig(**fields)
