"""The pruners by name: what each needs from calibration, and how it turns a layer into a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

from diff_es.bank import group_columns
from diff_es.calibration.statistics import WHOLE_RUN
from diff_es.errors import InputError
from diff_es.pruning import layerdrop, magnitude, taylor, wanda
from diff_es.pruning.hessian import centred_hessian, compensate_bias
from diff_es.pruning.obs import ObsConfig, obs_trajectory
from diff_es.registry import Registry
from diff_es.schedule import groups_removed

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.calibration.statistics import LayerStatistics, Statistic
    from diff_es.denoisers import Layer


@dataclass(frozen=True)
class BankConfig:
    """How a bank is made.

    Attributes:
        method: Name of a pruner: "obs", "wanda", "magnitude" or "layerdrop"; or one of the published methods that
            make a single pruned model for the whole run, "obs-diff" and "diff-pruning".
        num_levels: H. With H equal to the number of heads, every level removes one head.
        damping: OBS: added to the Hessian's diagonal, as a share of its mean.
        intercept: OBS: let the bias of the output projection take part in the least squares. The paper does not.
    """

    method: str = "obs"
    num_levels: int = 16
    damping: float = 0.01
    intercept: bool = False

    def __post_init__(self) -> None:
        pruners[self.method]
        if self.num_levels < 1:
            raise InputError(f"num_levels={self.num_levels} must be at least 1.")
        if not 0 < self.damping <= 1:
            raise InputError(f"damping={self.damping} must lie in (0, 1].")


@dataclass(frozen=True)
class LayerTrajectory:
    """Nested snapshots of one layer.

    Attributes:
        order: All groups in the order in which they leave, int64.
        weights: For each level ≥ 1, the compensated output projection, kept columns only; empty without compensation.
        biases: For each level ≥ 1, its bias; empty where the bias stays.
    """

    order: Tensor
    weights: Mapping[int, Tensor] = field(default_factory=dict)
    biases: Mapping[int, Tensor] = field(default_factory=dict)


#: The layer's dense parameters by path.
Parameters: TypeAlias = "Mapping[str, Tensor]"


@dataclass(frozen=True)
class Pruner:
    """One way to decide what goes.

    Attributes:
        needs: The calibration statistics that it reads.
        depth: Whether it drops whole blocks.
        trajectory: (layer, its dense parameters, its statistics, config) → trajectory; None for depth pruners,
            which rank all blocks at once by similarity.
    """

    needs: tuple[Statistic, ...]
    depth: bool = False
    trajectory: Callable[[Layer, Parameters, LayerStatistics, BankConfig], LayerTrajectory] | None = None

    @property
    def one_set(self) -> bool:
        """Whether all stages share one trajectory, whatever the calibration is: it is one pruned model."""
        return set(self.needs) <= WHOLE_RUN


pruners: Registry[Pruner] = Registry("pruner")


def _obs(layer: Layer, parameters: Parameters, statistics: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """Eq. 2-4 on the layer's output projection."""
    if statistics.second_moment is None or statistics.mean is None:
        raise InputError(f"{layer.name}: OBS needs second moments; calibrate with collect=('second_moment',).")
    return _compensated(layer, parameters, (statistics.second_moment, statistics.mean), config)


def _obs_diff(layer: Layer, parameters: Parameters, statistics: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """OBS with the timestep-aware Hessian of OBS-Diff (arXiv 2510.06751): one pruned model for all steps.

    The authors prune the model in packages of layers, calibrating again after each, and rank heads by a sum over their
    columns; here all layers are one package and heads are ranked as for `obs`, so that the Hessian is what differs.
    """
    if statistics.step_weighted_moment is None or statistics.step_weighted_mean is None:
        raise InputError(f"{layer.name}: OBS-Diff needs weighted moments; calibrate with {_collect('obs-diff')}.")
    return _compensated(layer, parameters, (statistics.step_weighted_moment, statistics.step_weighted_mean), config)


def _compensated(
    layer: Layer, parameters: Parameters, moments: tuple[Tensor, Tensor], config: BankConfig
) -> LayerTrajectory:
    """Remove by OBS, given E[x xᵀ] and E[x] of the output projection's inputs."""
    weight = parameters[f"{layer.output}.weight"]
    moment, mean = moments[0].to(weight.device), moments[1]
    solved = obs_trajectory(
        weight,
        centred_hessian(moment, mean) if config.intercept else moment,
        group_size=layer.group_size,
        removals=groups_removed(layer.num_groups, config.num_levels),
        config=ObsConfig(damping=config.damping),
        name=layer.name,
    )
    levels = dict(enumerate(solved.levels[1:], start=1))
    biases: dict[int, Tensor] = {}
    bias = parameters.get(f"{layer.output}.bias")
    if config.intercept and bias is not None:
        for level, snapshot in levels.items():
            columns = group_columns(snapshot.kept, layer.group_size)
            biases[level] = compensate_bias(weight, mean, columns, snapshot.weight, bias)
    return LayerTrajectory(solved.order, {level: snapshot.weight for level, snapshot in levels.items()}, biases)


def _wanda(layer: Layer, parameters: Parameters, statistics: LayerStatistics, _: BankConfig) -> LayerTrajectory:
    """Eq. 6-8 on the rows that produce the layer's groups."""
    if statistics.input_norms is None:
        raise InputError(f"{layer.name}: Wanda needs input norms; calibrate with collect=('input_norms',).")
    weights = [parameters[f"{path}.weight"] for path in layer.inputs]
    norms = [statistics.input_norms[path] for path in layer.inputs]
    if layer.kind == "attention":
        return LayerTrajectory(wanda.removal_order(wanda.head_scores(weights, norms, layer.num_groups)))
    return LayerTrajectory(wanda.removal_order(wanda.channel_scores(weights[0], norms[0], layer.num_groups)))


def _magnitude(layer: Layer, parameters: Parameters, _: LayerStatistics, __: BankConfig) -> LayerTrajectory:
    """Wanda's structure with all input norms 1."""
    weights = [parameters[f"{path}.weight"] for path in layer.inputs]
    if layer.kind == "attention":
        return LayerTrajectory(magnitude.removal_order(magnitude.head_scores(weights, layer.num_groups)))
    return LayerTrajectory(magnitude.removal_order(magnitude.channel_scores(weights[0], layer.num_groups)))


def _diff_pruning(layer: Layer, _: Parameters, statistics: LayerStatistics, __: BankConfig) -> LayerTrajectory:
    """First-order Taylor importance over the whole run (Diff-Pruning, arXiv 2305.10924): one pruned model, no update.

    Groups are ranked within their layer, and every layer loses the same share, as in the authors' code.
    """
    if statistics.importance is None:
        raise InputError(f"{layer.name}: Diff-Pruning needs importance; calibrate with {_collect('diff-pruning')}.")
    rows = [statistics.importance[path] for path in layer.inputs]
    scores = taylor.group_importance(rows, statistics.importance[layer.output], layer.num_groups, layer.halves)
    return LayerTrajectory(taylor.removal_order(scores))


def _collect(method: str) -> str:
    return f"collect={pruners[method].needs!r}"


pruners.register("obs", Pruner(("second_moment",), trajectory=_obs))
pruners.register("wanda", Pruner(("input_norms",), trajectory=_wanda))
pruners.register("magnitude", Pruner((), trajectory=_magnitude))
pruners.register("layerdrop", Pruner(("similarity",), depth=True))
pruners.register("diff-pruning", Pruner(("importance",), trajectory=_diff_pruning))
pruners.register("obs-diff", Pruner(("step_weighted_moment",), trajectory=_obs_diff))


def stack_order(similarities: list[float | None]) -> Tensor:
    """Order in which blocks leave, from their calibrated similarities (eq. 5).

    Raises:
        InputError: a block was not calibrated.
    """
    known = [value for value in similarities if value is not None]
    if len(known) != len(similarities):
        raise InputError("LayerDrop needs block similarities; calibrate with collect=('similarity',).")
    return layerdrop.removal_order(torch.tensor(known, dtype=torch.float64))
