"""Structured OBS (section 3.3 of arXiv 2603.05105, eq. 2-4): remove groups of columns one by one, compensate the rest.

For a linear layer with weight W and calibration inputs X, H = X X^T. Each step removes the group M with the smallest
`sum_rows W_M ((H^-1)_MM)^-1 W_M^T` and moves its work onto the others, `W <- W - W_M ((H^-1)_MM)^-1 (H^-1)_M:`.
After any number of removals the weight equals the least-squares solution on the kept columns K,
`W H[:, K] H[K, K]^-1` with the damped H: the tests hold every level of every trajectory to this closed form.

Everything is decided in float64: in float32 the removal order drifts.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from diff_es.errors import InputError
from diff_es.pruning.hessian import IndefiniteError, damped_inverse, dead_columns
from diff_es.pruning.obs_channels import ChannelSolver
from diff_es.pruning.obs_groups import GroupSolver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObsConfig:
    """How the OBS solver works.

    Attributes:
        damping: Added to the Hessian's diagonal, as a share of its mean (over inputs that are not always zero), > 0.
            0.01 is the value of SparseGPT and OBC: small beside any input that matters, large enough that a Hessian
            of fewer samples than columns, or one accumulated in float32, still has a Cholesky factorisation.
        max_damping: Where the factorisation fails all the same, damping is raised tenfold up to this share,
            >= `damping`. The damping used is recorded in the trajectory.
        block_size: Removals between two updates of the whole weight and inverse (groups of one column only), >= 1.
            Changes speed and rounding, not the result; 128 measured fastest on 1152 x 4608, and no worse on 256 x 1024.
    """

    damping: float = 0.01
    max_damping: float = 1.0
    block_size: int = 128

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0 < self.damping < math.inf):
            raise InputError(f"damping is {self.damping}; give a share of the mean diagonal above 0, such as 0.01")
        if not (self.damping <= self.max_damping < math.inf):
            raise InputError(f"max_damping is {self.max_damping}; give at least damping ({self.damping})")
        if self.block_size < 1:
            raise InputError(f"block_size is {self.block_size}; give at least 1")


@dataclass(frozen=True)
class ObsLevel:
    """A layer's weight at one level.

    Attributes:
        kept: Kept group indices, ascending, int64, (kept,), on the CPU.
        weight: Compensated weight of the kept columns, float64, (rows, kept * group_size), on the Hessian's device.
            Where nothing is removed (level 0) it is the very tensor that was given, in its own dtype.
    """

    kept: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class ObsTrajectory:
    """The pruning trajectory of one layer: nested snapshots over its levels.

    Attributes:
        order: Groups in the order they left, int64, (num_removed,), on the CPU.
        levels: One snapshot per entry of `removals`.
        damping: The damping that was used, as a share of the mean diagonal.
    """

    order: torch.Tensor
    levels: tuple[ObsLevel, ...]
    damping: float


def obs_trajectory(  # noqa: PLR0913
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    group_size: int,
    removals: Sequence[int],
    config: ObsConfig,
    name: str,
) -> ObsTrajectory:
    """Greedy OBS removal order of a layer's groups, with the compensated weight at every level.

    Runs on the Hessian's device (one with float64: CPU or CUDA). Inputs that were always zero cost nothing: they never
    count in a score, so groups made of them leave first, and while kept they keep their weight.

    Args:
        weight: W, (rows, columns), any float dtype. Group g owns columns g * group_size … (g + 1) * group_size - 1.
        hessian: X X^T of the layer's inputs, or any positive multiple of it, or `centred_hessian`; (columns, columns).
            Symmetric up to rounding; the lower triangle counts.
        group_size: Columns per group: the head dimension, or 1 for FFN channels.
        removals: Cumulative number of groups removed at each level: from 0, never falling, to num_groups at most.
        config: Damping and block size.
        name: The layer's name, for messages.

    Returns:
        The trajectory. Ties in score go to the lowest group index, so equal inputs give equal results.

    Raises:
        InputError: If shapes or removals do not fit, a value is NaN or infinite, the Hessian is no second moment, or
            it stays singular up to `config.max_damping`.
    """
    _check_shapes(weight, hessian, group_size, removals, name)
    check_values(weight, hessian, name)
    dense, moment = weight.detach(), hessian.detach()
    return rising_damping(
        lambda share: _solve(dense, moment, group_size, removals, (share, config.block_size)), config, name
    )


def rising_damping(solve: Callable[[float], T], config: ObsConfig, name: str) -> T:
    """Call `solve` with the damping of the configuration, ten times more where that is too small, and so on.

    Raises:
        InputError: If the Hessian stays singular up to `config.max_damping`.
    """
    damping = config.damping
    while True:
        try:
            return solve(damping)
        except IndefiniteError as error:
            raised = damping * 10
            if raised > config.max_damping * (1 + 1e-9):
                raise InputError(
                    f"{name}: the Hessian is not positive definite with damping {damping:g} (max_damping"
                    f" {config.max_damping:g}); calibrate with more samples, outside autocast, or raise max_damping"
                ) from error
            logger.warning("%s: the Hessian is singular with damping %g; trying %g", name, damping, raised)
            damping = raised


def group_columns(groups: torch.Tensor, group_size: int) -> torch.Tensor:
    """Columns of the given groups: group g owns columns g * group_size … (g + 1) * group_size - 1.

    Args:
        groups: Group indices, int64, shape (n,).
        group_size: Columns per group, at least 1.

    Returns:
        Column indices in the order of `groups`, int64, shape (n * group_size,).
    """
    offsets = torch.arange(group_size, device=groups.device)
    return (groups[:, None] * group_size + offsets).flatten()


def _solve(
    weight: torch.Tensor, hessian: torch.Tensor, group_size: int, removals: Sequence[int], settings: tuple[float, int]
) -> ObsTrajectory:
    """The trajectory with one damping; raises IndefiniteError where that is too small."""
    damping, block_size = settings
    dead = dead_columns(hessian)
    dense = weight.to(hessian.device, torch.float64)
    # A dead column has no cross terms, so zeroing it changes no other column and takes its damping out of the scores.
    live = dense.masked_fill(dead, 0.0)
    inverse = damped_inverse(hessian, damping)
    solver: ChannelSolver | GroupSolver
    solver = ChannelSolver(live, inverse, block_size) if group_size == 1 else GroupSolver(live, inverse, group_size)
    levels: list[ObsLevel] = []
    done = 0
    for target in removals:
        solver.remove(target - done)
        done = target
        if target == 0:
            levels.append(ObsLevel(solver.kept().cpu(), weight))
            continue
        columns = group_columns(solver.kept(), group_size)
        thin = torch.where(dead[columns], dense[:, columns], solver.weight())
        levels.append(ObsLevel(solver.kept().cpu(), thin))
    return ObsTrajectory(solver.order().cpu(), tuple(levels), damping)


def _check_shapes(
    weight: torch.Tensor, hessian: torch.Tensor, group_size: int, removals: Sequence[int], name: str
) -> None:
    if weight.ndim != 2 or hessian.shape != (weight.shape[1], weight.shape[1]):
        raise InputError(
            f"{name}: weight {tuple(weight.shape)} with hessian {tuple(hessian.shape)};"
            " give (rows, columns) and (columns, columns)"
        )
    if group_size < 1 or weight.shape[1] % group_size:
        raise InputError(f"{name}: group_size is {group_size}; give a divisor of the {weight.shape[1]} columns")
    num_groups = weight.shape[1] // group_size
    counts = list(removals)
    if not counts or counts[0] != 0 or counts != sorted(counts) or counts[-1] > num_groups:
        raise InputError(
            f"{name}: removals is {counts}; give counts that start at 0, never fall and end at {num_groups} at most"
        )


def check_values(weight: torch.Tensor, hessian: torch.Tensor, name: str) -> None:
    """Refuse weights and Hessians that are broken or no such thing."""
    for argument, tensor in (("weight", weight), ("hessian", hessian)):
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{name}: {argument} holds NaN or infinity; check the checkpoint and the calibration inputs"
            )
    diagonal = hessian.diagonal()
    if bool((diagonal < 0).any()):
        raise InputError(f"{name}: hessian has a negative diagonal; give X X^T, or centred_hessian for an intercept")
    if bool((diagonal == 0).all()):
        raise InputError(f"{name}: hessian is all zero; calibration never fed this layer, or only with zeros")
    # A matrix product of X with itself is symmetric up to rounding; anything beyond float32 rounding is another matrix.
    if float((hessian - hessian.T).abs().max()) > 1e-4 * float(diagonal.max()):
        raise InputError(f"{name}: hessian is not symmetric; give X X^T with inputs as columns of X")
