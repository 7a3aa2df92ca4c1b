"""DECIDE which groups go, and compensate for them: tensors in, tensors out.

`obs` removes groups one by one and moves their work onto the others; `wanda` (magnitude too) and `taylor` score them,
and LayerDrop ranks blocks. `build_bank` runs one `Pruner` over a model and keeps what it finds.
"""

from __future__ import annotations

from diff_es.pruning import taylor, wanda
from diff_es.pruning.build import build_bank
from diff_es.pruning.hessian import centred_hessian, compensate_bias, damped_hessian
from diff_es.pruning.obs import ObsConfig, ObsFamily, ObsOutput, ObsTrajectory, obs_trajectory
from diff_es.pruning.pruners import BankConfig, Pruner, pruners

__all__ = [
    "BankConfig",
    "ObsConfig",
    "ObsFamily",
    "ObsOutput",
    "ObsTrajectory",
    "Pruner",
    "build_bank",
    "centred_hessian",
    "compensate_bias",
    "damped_hessian",
    "obs_trajectory",
    "pruners",
    "taylor",
    "wanda",
]
