"""Model stitching, as MosaicDiff (Guo et al., 2025) runs a schedule: a full pruned model for every stage.

Each model is a copy of the dense denoiser whose linears are physically thinner; a call goes to the model of its stage.
The images are those of the routed model. The difference is memory: whatever is not pruned (embedders, AdaLN, unpruned
layers) is there once per stage, which is what weight routing spares.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diff_es.calibration import first_step
from diff_es.denoisers import STITCHED, dense_denoiser_of, on_device, spec_of
from diff_es.denoisers.macs import parameters_used
from diff_es.routing import Router, check_model
from diff_es.sampling import SamplerConfig, any_requests

if TYPE_CHECKING:
    from diff_es.bank import ThinSource
    from diff_es.denoisers import Call
    from diff_es.schedule import PruningSchedule


def stitch_(pipe: Any, source: ThinSource, schedule: PruningSchedule) -> nn.Module:
    """Replace the pipeline's denoiser by one pruned model per stage; the pipeline is modified in place.

    Args:
        pipe: A diffusers pipeline whose denoiser is dense.
        source: The bank, or a loaded artefact, that holds the pruned weights of this very model.
        schedule: What to run.

    Returns:
        The new denoiser: of the dense one's class, with one model per stage in `stages`. Nothing in it shares memory
        with the dense one, nor one model with another.

    Raises:
        UnsupportedModelError: the model is routed or stitched, cannot be pruned as it is, or is not the one that the
            weights belong to.
        InputError: the schedule does not fit the weights.
    """
    dense = dense_denoiser_of(pipe)
    check_model(dense, source)
    call = first_step(pipe, any_requests(pipe, 1), SamplerConfig(num_inference_steps=1))[0]
    models = [_pruned_model(dense, source, schedule, stage, call) for stage in range(schedule.num_stages)]
    stitched = _shell(dense, source, models)
    setattr(pipe, _name_of(pipe, dense), stitched)
    return stitched


@contextmanager
def stitched(pipe: Any, source: ThinSource, schedule: PruningSchedule) -> Iterator[nn.Module]:
    """Run the pipeline by stitched models within a block; the very same dense denoiser is back afterwards."""
    dense = dense_denoiser_of(pipe)
    name = _name_of(pipe, dense)
    try:
        yield stitch_(pipe, source, schedule)
    finally:
        setattr(pipe, name, dense)


def _name_of(pipe: Any, denoiser: nn.Module) -> str:
    names: list[str] = [name for name, part in pipe.components.items() if part is denoiser]
    return names[0]


def _pruned_model(dense: nn.Module, source: ThinSource, schedule: PruningSchedule, stage: int, call: Call) -> nn.Module:
    """Return the full pruned model of one stage.

    It holds what routing points at in that stage, for good: the router that puts it there is forgotten, and with it the
    dense weights of the copy.
    """
    model = copy.deepcopy(dense)
    router = Router(model, source, "gather")
    router.set_schedule(schedule)
    with torch.no_grad():
        router.point_at(stage)
    dropped = [layer.name for layer, level in zip(router.layers, schedule.layer_levels[stage], strict=True) if level]
    if source.depth:
        _empty_(model, dropped, call)
    _own_(model)
    return model


def _empty_(model: nn.Module, blocks: list[str], call: Call) -> None:
    """Free the weights of dropped blocks, but for what others borrow (DiT's last layer uses block 0's embedder)."""
    device = next(model.parameters()).device
    used = {id(parameter) for parameter in parameters_used(model, on_device(call, device))}
    for block in blocks:
        for module in model.get_submodule(block).modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in used:
                    module._parameters[name] = None


def _own_(model: nn.Module) -> None:
    """Give every parameter memory of its own: thin ones may be views of the bank."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)


def _shell(dense: nn.Module, source: ThinSource, models: list[nn.Module]) -> nn.Module:
    """Return a module of the denoiser's class (pipelines read its config) that has no weights but the models'."""
    kind: Any = type(dense)
    with torch.device("meta"):
        shell: nn.Module = kind.from_config(dense.config)
    for name, _ in list(shell.named_children()):
        delattr(shell, name)
    shell.stages = nn.ModuleList(models)
    vars(shell).update({STITCHED: source.plan, "forward": MethodType(_dispatch, shell)})
    return shell.eval()


def _dispatch(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call the model of the stage that the timestep lies in."""
    stage = vars(self)[STITCHED].stage_at(spec_of(self).timestep(self, args, kwargs))
    return self.stages[stage](*args, **kwargs)  # type: ignore[index,operator]
