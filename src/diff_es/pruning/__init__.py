"""DECIDE which groups go, and compensate for them: tensors in, tensors out.

`obs` removes groups one by one and moves their work onto the others; `wanda`, `magnitude` and `layerdrop` only rank.
`levels.removals` says how many groups each level removes. Nothing here knows a model, a hook or a file.
"""

from __future__ import annotations

from diff_es.pruning import layerdrop, magnitude, wanda
from diff_es.pruning.hessian import centred_hessian, compensate_bias, damped_hessian
from diff_es.pruning.levels import removals
from diff_es.pruning.obs import ObsConfig, ObsLevel, ObsTrajectory, obs_trajectory
from diff_es.pruning.ranking import group_columns, kept_groups

__all__ = [
    "ObsConfig",
    "ObsLevel",
    "ObsTrajectory",
    "centred_hessian",
    "compensate_bias",
    "damped_hessian",
    "group_columns",
    "kept_groups",
    "layerdrop",
    "magnitude",
    "obs_trajectory",
    "removals",
    "wanda",
]
