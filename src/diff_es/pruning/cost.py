"""How long a bank will take, told before it is built: what OBS computes, over how fast this device computes that.

With n columns and m of them left, W of r rows and P = H^-1, in float64:

- Cholesky factor and inverse of H: n^3 / 3 and 2 n^3 / 3 operations;
- removing all columns, in blocks: P and W take a product of 2 m (m + r) operations for each column, 2/3 n^3 + n^2 r in
  all, and W is read once for each, 8 m r bytes, 4 n^2 r in all: the larger part on a CPU;
- removing heads: the same products, and every head left is scored anew for each head removed, about n^2 r for each
  column of a head.

Speeds are measured on small problems, in well under a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from diff_es.pruning.obs_channels import ChannelSolver

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.denoisers import Layer


@dataclass(frozen=True)
class SolverWork:
    """What OBS computes for one output projection.

    Attributes:
        factorised: Floating-point operations of factorisations.
        multiplied: Floating-point operations of matrix products.
        read: Bytes that products of a matrix and a vector read.
        removals: Groups that are removed.
    """

    factorised: float
    multiplied: float
    read: float
    removals: int


@dataclass(frozen=True)
class Speed:
    """How fast a device computes in float64.

    Attributes:
        factorised: As of `SolverWork`, per second.
        multiplied: As of `SolverWork`, per second.
        read: As of `SolverWork`, per second.
        removal: Seconds that one removal takes, however little there is to compute.
    """

    factorised: float
    multiplied: float
    read: float
    removal: float

    def seconds(self, work: SolverWork) -> float:
        """Return how long the work takes."""
        computing = work.factorised / self.factorised + work.multiplied / self.multiplied + work.read / self.read
        return computing + work.removals * self.removal


def solver_work(rows: int, columns: int, group_size: int) -> SolverWork:
    """Return what removing all groups of one output projection takes.

    Args:
        rows: r, of W.
        columns: n, of W.
        group_size: Columns per group.
    """
    products = 2 / 3 * columns**3 + columns**2 * rows
    inverse = float(columns) ** 3
    if group_size == 1:
        return SolverWork(inverse, products, 4.0 * columns**2 * rows, columns)
    # Scoring: a triangular solve of s^2 r operations for each of the n / s heads, half of them left on the average.
    scoring = columns**2 * rows / 2
    return SolverWork(inverse, products + scoring, 0.0, columns // group_size)


def bank_work(denoiser: nn.Module, layers: Sequence[Layer]) -> list[SolverWork]:
    """Return what OBS computes for one stage, output by output."""
    work = []
    for layer in layers:
        sizes = {span.path: span.size for family in layer.families for span in family.columns}
        for path in layer.outputs:
            rows, columns = denoiser.get_parameter(f"{path}.weight").flatten(1).shape
            work.append(solver_work(rows, columns, sizes[path]))
    return work


def bank_seconds(denoiser: nn.Module, layers: Sequence[Layer]) -> float:
    """Predict how long OBS takes for one stage, on the device that the denoiser is on."""
    speed = measure_speed(next(denoiser.parameters()).device)
    return sum(speed.seconds(work) for work in bank_work(denoiser, layers))


def measure_speed(device: torch.device) -> Speed:
    """Time small problems on a device that knows float64."""
    square = torch.randn(1024, 1024, dtype=torch.float64, device=device)
    definite = square @ square.T + 1024 * torch.eye(1024, dtype=torch.float64, device=device)
    # Larger than any cache, so that memory is what is timed.
    tall = torch.ones(16384, 1024, dtype=torch.float64, device=device)
    vector = torch.ones(1024, dtype=torch.float64, device=device)
    small = ChannelSolver(square[:32, :192].contiguous(), definite[:192, :192] / 1024, 128)
    return Speed(
        factorised=1024**3 / _seconds(lambda: torch.cholesky_inverse(torch.linalg.cholesky_ex(definite)[0]), device),
        multiplied=2 * 1024**3 / _seconds(lambda: square @ square, device),
        read=tall.nbytes / _seconds(lambda: tall.mv(vector), device),
        removal=_seconds(lambda: small.remove(64), device) / 64,
    )


def _seconds(work: Callable[[], Tensor | None], device: torch.device) -> float:
    """Seconds of the second run of two: the first one also loads libraries."""
    seconds = 0.0
    for _ in range(2):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds = time.perf_counter() - start
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
