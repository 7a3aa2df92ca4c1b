"""Structured OBS (section 3.3 of arXiv 2603.05105, eq. 2-4): remove groups of columns one by one, compensate the rest.

For a linear layer with weight W and calibration inputs X, H = X X^T. Each step removes the group M with the smallest
`sum_rows W_M ((H^-1)_MM)^-1 W_M^T` and moves its work onto the others, `W <- W - W_M ((H^-1)_MM)^-1 (H^-1)_M:`.
After any number of removals the weight equals the least-squares solution on the kept columns K,
`W H[:, K] H[K, K]^-1` with the damped H: the tests hold every level of every trajectory to this closed form.

A group may feed several linears (in a joint attention a head feeds the output projections of image and text), and
groups of different size may share one (in a parallel block the heads and the FFN channels). The loss is the summed
squared error of all outputs o,

    sum_o s_o tr(dW_o H_o dW_o^T),

with H_o the mean second moment of the output's inputs and s_o their number. The outputs share no weights, so eq. 2-4
hold for each; a removal is scored by the sum of their losses, and compensated in each. Groups of different size are
not compared with each other: a level removes its share of every family (heads first), each family greedily, and all
of them are compensated by whatever is left.

Everything is decided in float64: in float32 the removal order drifts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from diff_es.errors import InputError
from diff_es.pruning.hessian import IndefiniteError
from diff_es.pruning.obs_removal import OutputState, remover_of

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
class ObsOutput:
    """One linear that groups feed.

    Attributes:
        weight: W, (rows, columns), any float dtype.
        hessian: X X^T of its inputs, or any positive multiple of it, or `centred_hessian`; (columns, columns).
            Symmetric up to rounding; the lower triangle counts. Of several outputs the mean over their inputs.
        share: Its weight s_o in the loss, > 0; without a second output it changes nothing.
    """

    weight: torch.Tensor
    hessian: torch.Tensor
    share: float = 1.0


@dataclass(frozen=True)
class ObsFamily:
    """Groups of one size.

    Attributes:
        columns: For each output the columns of every group, int64, (groups, group_size); None where they feed it not.
        removals: Cumulative number of groups removed at each level: from 0, never falling, to all of them at most.
    """

    columns: tuple[torch.Tensor | None, ...]
    removals: Sequence[int]


@dataclass(frozen=True)
class ObsTrajectory:
    """The pruning trajectory of one layer: nested snapshots over its levels.

    Attributes:
        orders: For each family its groups in the order they left, int64, (removed,), on the CPU.
        levels: For each level the compensated weight of every output, float64, (rows, kept columns in their order), on
            the Hessian's device. Where nothing is removed (level 0) it is the very tensor that was given.
        damping: The damping that was used, as a share of the mean diagonal.
    """

    orders: tuple[torch.Tensor, ...]
    levels: tuple[tuple[torch.Tensor, ...], ...]
    damping: float


def obs_trajectory(
    outputs: Sequence[ObsOutput], families: Sequence[ObsFamily], *, config: ObsConfig, name: str
) -> ObsTrajectory:
    """Greedy OBS removal orders of a layer's groups, with the compensated weights at every level.

    Runs on the Hessians' device (one with float64: CPU or CUDA). Inputs that were always zero cost nothing: they never
    count in a score, so groups made of them leave first, and while kept they keep their weight.

    Args:
        outputs: The linears.
        families: The groups; those of one column that feed a single output are removed in blocks.
        config: Damping and block size.
        name: The layer's name, for messages.

    Returns:
        The trajectory. Ties in score go to the lowest group index, so equal inputs give equal results.

    Raises:
        InputError: If shapes or removals do not fit, a value is NaN or infinite, a Hessian is no second moment, or
            it stays singular up to `config.max_damping`.
    """
    for output in outputs:
        _check_values(output, name)
    for family in families:
        _check_removals(family, name)
    return rising_damping(lambda damping: _solve(outputs, families, damping, config.block_size), config, name)


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


def _solve(
    outputs: Sequence[ObsOutput], families: Sequence[ObsFamily], damping: float, block_size: int
) -> ObsTrajectory:
    """The trajectory with one damping; raises IndefiniteError where that is too small."""
    states = [OutputState(output, families, index, damping, block_size) for index, output in enumerate(outputs)]
    removers = [remover_of(family, states) for family in families]
    levels = []
    for level in range(len(families[0].removals)):
        for family, remover in zip(families, removers, strict=True):
            remover.remove(family.removals[level] - (family.removals[level - 1] if level else 0))
        levels.append(tuple(state.weight() for state in states))
    return ObsTrajectory(tuple(remover.order().cpu() for remover in removers), tuple(levels), damping)


def _check_values(output: ObsOutput, name: str) -> None:
    """Refuse weights and Hessians that are broken or no such thing."""
    weight, hessian = output.weight, output.hessian
    if weight.ndim != 2 or hessian.shape != (weight.shape[1], weight.shape[1]):
        raise InputError(
            f"{name}: weight {tuple(weight.shape)} with hessian {tuple(hessian.shape)};"
            " give (rows, columns) and (columns, columns)"
        )
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


def _check_removals(family: ObsFamily, name: str) -> None:
    counts = list(family.removals)
    most = max(len(columns) for columns in family.columns if columns is not None)
    if not counts or counts[0] != 0 or counts != sorted(counts) or counts[-1] > most:
        raise InputError(
            f"{name}: removals is {counts}; give counts that start at 0, never fall and end at {most} at most"
        )
