"""The predicted work of the solver, against what it really asks of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from one_linear import solve
from torch.utils._python_dispatch import TorchDispatchMode

from diff_es.denoisers import spec_of
from diff_es.pruning import ObsConfig
from diff_es.pruning.cost import SolverWork, Speed, bank_seconds, bank_work, measure_speed, solver_work
from support import tiny_pipe

aten = torch.ops.aten
#: Operations for a product of (n, k) and (k, m), by the place of its first matrix among the arguments.
PRODUCTS = {aten.mm.default: 0, aten.addmm.default: 1, aten.addmm_.default: 1}


class Counter(TorchDispatchMode):
    """Counts the operations of products and triangular solves, and the bytes that matrices times vectors read."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplied = 0
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            first, second = args[PRODUCTS[func]], args[PRODUCTS[func] + 1]
            self.multiplied += 2 * first.numel() * second.shape[1]
        elif func is aten.linalg_solve_triangular.default:
            self.multiplied += args[0].shape[-1] * args[1].numel()
        elif func is aten.mv.default:
            self.read += args[0].nbytes
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("rows", "columns", "group_size"), [(256, 1024, 1), (384, 384, 1), (288, 288, 24), (64, 512, 32)]
)
def test_work_is_what_the_solver_does(rows: int, columns: int, group_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(2 * columns, columns, generator=generator, dtype=torch.float64)
    groups = columns // group_size
    with Counter() as counter:
        solve(
            weight,
            inputs.T @ inputs,
            group_size=group_size,
            removals=range(0, groups + 1, groups // 4),
            config=ObsConfig(block_size=32),
        )
    work = solver_work(rows, columns, group_size)
    own = 2 * (2 * columns) * columns**2  # of the inputs above
    assert counter.multiplied - own == pytest.approx(work.multiplied, rel=0.35)
    # The factor of a block is read too, but stays in the cache.
    assert counter.read == pytest.approx(work.read, rel=0.35)
    assert work.removals == groups


def test_the_whole_denoiser() -> None:
    denoiser = tiny_pipe().transformer
    layers = spec_of(denoiser).width_layers(denoiser)
    assert bank_work(denoiser, layers) == [solver_work(16, 16, 4), solver_work(16, 64, 1)] * 2
    assert 0 < bank_seconds(denoiser, layers) < 10


def test_seconds_are_work_over_speed() -> None:
    speed = Speed(factorised=2.0, multiplied=4.0, read=8.0, removal=3.0)
    assert speed.seconds(SolverWork(2.0, 8.0, 32.0, 10)) == 1 + 2 + 4 + 30


def test_a_speed_is_a_sensible_one() -> None:
    speed = measure_speed(torch.device("cpu"))
    assert 1e7 < speed.factorised < 1e14 and 1e7 < speed.multiplied < 1e14
    assert 1e7 < speed.read < 1e13 and 1e-7 < speed.removal < 1
