"""OBS on a layer of a denoiser: its output projections as least-squares problems, solved for every level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from diff_es.pruning.hessian import centred_hessian, compensate_bias
from diff_es.pruning.obs import ObsConfig, ObsFamily, ObsOutput, obs_trajectory
from diff_es.pruning.trajectory import LayerTrajectory, merged_order

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.calibration.statistics import Moments
    from diff_es.denoisers import GroupFamily, Layer


def compensate(  # noqa: PLR0913 (the settings of a bank that matter here)
    layer: Layer,
    parameters: Mapping[str, Tensor],
    moments: Mapping[str, Moments],
    *,
    num_levels: int,
    damping: float,
    intercept: bool,
) -> LayerTrajectory:
    """Remove a layer's groups by OBS.

    Where a group feeds several output projections, or heads and channels share one, the loss is the summed squared
    error of all of them.

    Args:
        layer: The layer.
        parameters: Its dense parameters by path.
        moments: Of the inputs of each output projection.
        num_levels: H.
        damping: Added to each Hessian's diagonal, as a share of its mean.
        intercept: Let the biases take part in the least squares, of the projections that have one.
    """
    rows = sum(moments[path].rows for path in layer.outputs)
    linears = []
    for path in layer.outputs:
        weight = parameters[f"{path}.weight"].flatten(1)
        hessian = _hessian(moments[path], weight.device, centred=intercept and f"{path}.bias" in parameters)
        linears.append(ObsOutput(weight, hessian, moments[path].rows / rows))
    families = [
        ObsFamily(_columns(layer, family, linears[0].weight.device), family.removed(num_levels))
        for family in layer.families
    ]
    solved = obs_trajectory(linears, families, config=ObsConfig(damping=damping), name=layer.name)
    order = merged_order(layer, solved.orders, num_levels)
    removed = layer.removed(num_levels)
    outputs: dict[int, dict[str, Tensor]] = {}
    for level in range(1, num_levels + 1):
        outputs[level] = {}
        for path, thin in zip(layer.outputs, solved.levels[level], strict=True):
            dense, bias = parameters[f"{path}.weight"], parameters.get(f"{path}.bias")
            # A 1 × 1 convolution has two dimensions more.
            outputs[level][f"{path}.weight"] = thin.reshape(*thin.shape, *dense.shape[2:])
            if intercept and bias is not None:
                columns = layer.kept_columns(path, order[removed[level] :].sort().values, dense.shape[1])
                moved = compensate_bias(dense.flatten(1), moments[path].mean, columns, thin, bias)
                outputs[level][f"{path}.bias"] = moved
    return LayerTrajectory(order, outputs)


def _hessian(moments: Moments, device: torch.device, *, centred: bool) -> Tensor:
    """The covariance where a bias carries the mean output, else the second moment: then the weights must carry it."""
    second = moments.second.to(device)
    return centred_hessian(second, moments.mean) if centred else second


def _columns(layer: Layer, family: GroupFamily, device: torch.device) -> tuple[Tensor | None, ...]:
    """For each output of the layer the columns of every group of a family, (groups, group size)."""
    every = torch.arange(family.count, device=device)
    spans = {span.path: span for span in family.columns}
    return tuple(spans[path].of(every).view(family.count, -1) if path in spans else None for path in layer.outputs)
