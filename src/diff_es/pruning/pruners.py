"""The pruners by name: what each needs from calibration, and how it turns a layer into a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from diff_es.calibration.statistics import MOMENTS, WHOLE_RUN
from diff_es.denoisers import spec_of
from diff_es.errors import InputError
from diff_es.pruning import taylor, wanda
from diff_es.pruning.compensate import compensate
from diff_es.pruning.ranking import ascending_order
from diff_es.pruning.trajectory import LayerTrajectory, merged_order
from diff_es.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.calibration.statistics import LayerStatistics, Moments, Statistic
    from diff_es.denoisers import Layer


#: Half-precision matrix units of NVIDIA's GPUs take 8 values at once.
_CUDA_MULTIPLE = 8


@dataclass(frozen=True)
class BankConfig:
    """How a bank is made.

    Attributes:
        method: Name of a pruner: "obs", "wanda", "magnitude" or "layerdrop"; or one of the published methods that
            make a single pruned model for the whole run, "obs-diff" and "diff-pruning".
        num_levels: H. With H equal to the number of heads, every level removes one head.
        damping: OBS: added to the Hessian's diagonal, as a share of its mean.
        intercept: OBS: let the bias of the output projection, where it has one, take part in the least squares. The
            paper does not.
        width_multiple: Round the number of kept FFN channels up to a multiple of this at every level, which removes a
            little less: GPUs multiply matrices of round widths faster. "auto" is 8 on CUDA, elsewhere 1 (no rounding).
    """

    method: str = "obs"
    num_levels: int = 16
    damping: float = 0.01
    intercept: bool = False
    width_multiple: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        pruners[self.method]
        if self.num_levels < 1:
            raise InputError(f"num_levels={self.num_levels} must be at least 1.")
        if not 0 < self.damping <= 1:
            raise InputError(f"damping={self.damping} must lie in (0, 1].")
        if self.width_multiple != "auto" and self.width_multiple < 1:
            raise InputError(f"width_multiple={self.width_multiple} must be at least 1, or 'auto'.")

    def layers(self, denoiser: nn.Module) -> tuple[Layer, ...]:
        """Return the denoiser's layers, or blocks, with their widths rounded as wanted."""
        layers = spec_of(denoiser).layers(denoiser, blocks=pruners[self.method].depth)
        return tuple(layer.in_multiples(self.multiple_for(denoiser)) for layer in layers)

    def multiple_for(self, denoiser: nn.Module) -> int:
        """Return `width_multiple` as a number: "auto" depends on the device that the denoiser is on."""
        if self.width_multiple != "auto":
            return self.width_multiple
        return _CUDA_MULTIPLE if next(denoiser.parameters()).is_cuda else 1


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

    @property
    def compensates(self) -> bool:
        """Whether it moves weights: a pruner that reads second moments does."""
        return not MOMENTS.isdisjoint(self.needs)


pruners: Registry[Pruner] = Registry("pruner")


def _obs(layer: Layer, parameters: Parameters, statistics: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """Eq. 2-4 on the layer's output projections."""
    if statistics.moments is None:
        raise InputError(f"{layer.name}: OBS needs second moments; calibrate with {_collect('obs')}.")
    return _compensated(layer, parameters, statistics.moments, config)


def _obs_diff(layer: Layer, parameters: Parameters, statistics: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """OBS with the timestep-aware Hessian of OBS-Diff (arXiv 2510.06751): one pruned model for all steps.

    The authors prune the model in packages of layers, calibrating again after each, and rank heads by a sum over their
    columns; here all layers are one package and heads are ranked as for `obs`, so that the Hessian is what differs.
    """
    if statistics.step_weighted_moments is None:
        raise InputError(f"{layer.name}: OBS-Diff needs weighted moments; calibrate with {_collect('obs-diff')}.")
    return _compensated(layer, parameters, statistics.step_weighted_moments, config)


def _compensated(
    layer: Layer, parameters: Parameters, moments: Mapping[str, Moments], config: BankConfig
) -> LayerTrajectory:
    return compensate(
        layer,
        parameters,
        moments,
        num_levels=config.num_levels,
        damping=config.damping,
        intercept=config.intercept,
    )


def _wanda(layer: Layer, parameters: Parameters, statistics: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """Eq. 6-8 on the rows that produce the layer's groups."""
    if statistics.input_norms is None:
        raise InputError(f"{layer.name}: Wanda needs input norms; calibrate with {_collect('wanda')}.")
    return _ranked(layer, parameters, config, statistics.input_norms)


def _magnitude(layer: Layer, parameters: Parameters, _: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """Wanda's structure with all input norms 1."""
    return _ranked(layer, parameters, config, None)


def _ranked(
    layer: Layer, parameters: Parameters, config: BankConfig, norms: Mapping[str, Tensor] | None
) -> LayerTrajectory:
    """Rank the groups of each family by the rows that produce them: heads over all their rows, channels by the mean."""
    orders = []
    for family in layer.families:
        every = torch.arange(family.count)
        spans = [span for span in family.rows if span.scored]
        weights = [parameters[f"{span.path}.weight"].flatten(1)[span.of(every)] for span in spans]
        if norms is None:
            known = [weight.new_ones(weight.shape[1]) for weight in weights]
        else:
            known = [norms[span.path] for span in spans]
        if family.kind == "head":
            scores = wanda.head_scores(weights, known, family.count)
        else:
            each = [wanda.channel_scores(*pair) for pair in zip(weights, known, strict=True)]
            scores = torch.stack(each).mean(dim=0)
        orders.append(ascending_order(scores))
    return LayerTrajectory(merged_order(layer, orders, config.num_levels))


def _diff_pruning(layer: Layer, _: Parameters, statistics: LayerStatistics, config: BankConfig) -> LayerTrajectory:
    """First-order Taylor importance over the whole run (Diff-Pruning, arXiv 2305.10924): one pruned model, no update.

    Groups are ranked within their layer, and every layer loses the same share, as in the authors' code.
    """
    known = statistics.importance
    if known is None:
        raise InputError(f"{layer.name}: Diff-Pruning needs importance; calibrate with {_collect('diff-pruning')}.")
    orders = []
    for family in layer.families:
        every = torch.arange(family.count)
        owned = [known[span.path][span.of(every)] for span in (*family.rows, *family.columns)]
        orders.append(ascending_order(taylor.group_importance(owned, family.count)))
    return LayerTrajectory(merged_order(layer, orders, config.num_levels))


def _collect(method: str) -> str:
    return f"collect={pruners[method].needs!r}"


pruners.register("obs", Pruner(("second_moment",), trajectory=_obs))
pruners.register("wanda", Pruner(("input_norms",), trajectory=_wanda))
pruners.register("magnitude", Pruner((), trajectory=_magnitude))
pruners.register("layerdrop", Pruner(("similarity",), depth=True))
pruners.register("diff-pruning", Pruner(("importance",), trajectory=_diff_pruning))
pruners.register("obs-diff", Pruner(("step_weighted_moment",), trajectory=_obs_diff))


def stack_order(similarities: list[float | None]) -> Tensor:
    """Order in which blocks leave: those that change their input least, of the largest mean similarity (eq. 5), first.

    Raises:
        InputError: a block was not calibrated, or a similarity is NaN or infinite.
    """
    known = [value for value in similarities if value is not None]
    if len(known) != len(similarities):
        raise InputError("LayerDrop needs block similarities; calibrate with collect=('similarity',).")
    return ascending_order(-torch.tensor(known, dtype=torch.float64))
