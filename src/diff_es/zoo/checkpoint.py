"""One file that holds everything a training run needs to go on: parameters, EMA, optimizer moments and the step.

It is one safetensors file whose header carries the rest as JSON, written under a temporary name and renamed, so that
a run killed at any moment leaves either the old or the new checkpoint. No random state is stored because none exists:
:mod:`diff_es.zoo.training` derives all randomness from (seed, step).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diff_es.artifacts import sync
from diff_es.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from torch import nn

_KEY: Final = "diff_es_training"


def save_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write a checkpoint, replacing the one at ``path`` in a single step.

    Args:
        path: the checkpoint file.
        modules: modules to store, by a name without dots.
        optimizer: its per-parameter tensors are stored; its hyperparameters follow from the recipe.
        progress: JSON values to store beside the tensors (the step, the recipe).

    Raises:
        ArtifactError: the disk is full or not writable; the old checkpoint is still there.
    """
    tensors = {f"{name}.{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    try:
        save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, {_KEY: json.dumps(dict(progress))})
        sync(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"Cannot write {path}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint_(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    recipe_at: Callable[[int], Mapping[str, Any]],
) -> int:
    """Load a checkpoint into ``modules`` and ``optimizer``, in place.

    Args:
        path: the checkpoint file.
        modules: as given to :func:`save_checkpoint`.
        optimizer: built over the same parameters in the same order.
        recipe_at: gives what must equal the recipe stored at a step.

    Returns:
        The number of finished steps.

    Raises:
        ArtifactError: the file is damaged or belongs to something else.
        InputError: the file was written under another recipe.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            progress = json.loads((stored.metadata() or {})[_KEY])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: not a training checkpoint ({error}); delete it to start afresh") from error
    recipe = dict(recipe_at(progress["step"]))
    if progress["recipe"] != recipe:
        raise InputError(
            f"output: {str(path)!r} was written under another recipe ({progress['recipe']}, now {recipe}); "
            "choose another folder, or pass resume=False to start afresh"
        )
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(progress["step"])
