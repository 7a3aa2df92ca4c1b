"""Watch a model while it runs: hooks that feed the statistics of its layers, of one stage or of several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diff_es.calibration.passes import layers_of
from diff_es.calibration.statistics import Accumulator, SecondMoment, Similarity, SquaredNorms, Statistic
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.calibration.collect import CalibrationConfig
    from diff_es.calibration.sources import LiveSource
    from diff_es.denoisers import Layer
    from diff_es.stages import StagePlan


def _always() -> bool:
    return True


@contextmanager
def observed(
    denoiser: nn.Module,
    layers: Sequence[Layer],
    collect: Sequence[Statistic],
    active: Callable[[], bool] = _always,
) -> Iterator[list[Accumulator]]:
    """Hook accumulators to the layers; every hook is gone when the block ends.

    Args:
        denoiser: The model.
        layers: Its layers to watch.
        collect: What to collect of them.
        active: Whether the call that is running counts.
    """
    accumulators: list[Accumulator] = []
    with ExitStack() as hooks:
        for layer in layers:
            if layer.kind == "block":
                accumulators.append(_watch_block(denoiser, layer, hooks, active))
                continue
            if "second_moment" in collect:
                accumulators += [_watch_input(denoiser, path, SecondMoment, hooks, active) for path in layer.outputs]
            if "input_norms" in collect:
                accumulators += [_watch_input(denoiser, path, SquaredNorms, hooks, active) for path in layer.scored]
        yield accumulators


def observed_stages(
    pipe: Any,
    source: LiveSource,
    config: CalibrationConfig,
    watched: Sequence[int | None],
    later: Sequence[int | None],
) -> dict[int | None, list[Accumulator]]:
    """Sample once and return what the layers met in every stage, as each call's own stage has it.

    Args:
        pipe: The dense pipeline.
        source: Samples.
        config: The stages, and what to collect.
        watched: Stages to watch. None stands for all timesteps.
        later: Stages whose calls the source is to keep.

    Raises:
        InputError: a stage to watch was never met.
    """
    denoiser, layers, plan = denoiser_of(pipe), layers_of(pipe, config), config.stages
    running: int | None = None
    met: set[int | None] = set()

    def enter(timestep: float) -> bool:
        nonlocal running
        running = None if None in watched else plan.stage_at(timestep)
        met.add(running)
        return running in later

    found: dict[int | None, list[Accumulator]] = {}
    with ExitStack() as hooks:
        for stage in watched:
            active = partial(lambda own: running == own, stage)
            found[stage] = hooks.enter_context(observed(denoiser, layers, config.collect, active))
        source.run(pipe, enter)
    for stage in watched:
        if stage not in met:
            raise no_calls(plan, stage)
    return found


def no_calls(plan: StagePlan, stage: int | None) -> InputError:
    """Say that a source has nothing for a stage: empty statistics would rank groups by index."""
    return InputError(
        f"The calibration source has no denoiser call in stage {stage}; sample it with the steps that the "
        f"stages were made for ({len(plan.timesteps)})."
    )


def drained(accumulators: list[Accumulator]) -> Iterator[tuple[str, Tensor]]:
    """Empty the list: yield the tensors of each accumulator, on the CPU, and let go of it."""
    while accumulators:
        for name, tensor in accumulators.pop(0).tensors().items():
            yield name, tensor.cpu()


def _watch_input(
    denoiser: nn.Module,
    path: str,
    kind: type[SecondMoment] | type[SquaredNorms],
    hooks: ExitStack,
    active: Callable[[], bool],
) -> SecondMoment | SquaredNorms:
    watched = denoiser.get_submodule(path)
    weight = denoiser.get_parameter(f"{path}.weight")
    accumulator = kind(path, weight.shape[1], weight.device)

    def update(_: nn.Module, args: tuple[Any, ...]) -> None:
        if not active():
            return
        inputs: Tensor = args[0]
        # A 1 × 1 convolution is a linear whose inputs are the pixels, with their channels in the second dimension.
        rows = inputs.movedim(1, -1) if isinstance(watched, nn.Conv2d) else inputs
        with torch.autocast(inputs.device.type, enabled=False):
            accumulator.update(rows)

    hooks.callback(watched.register_forward_pre_hook(update).remove)
    return accumulator


def _watch_block(denoiser: nn.Module, layer: Layer, hooks: ExitStack, active: Callable[[], bool]) -> Similarity:
    similarity = Similarity(layer.name)
    absent = layer.families[0].absent
    assert absent is not None  # a block is nothing else

    def update(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if not active():
            return
        # The absent block is the one place that knows which inputs a block passes on.
        skipped = absent.forward(None, *args, **kwargs)
        similarity.update(skipped, output)

    hooks.callback(denoiser.get_submodule(layer.name).register_forward_hook(update, with_kwargs=True).remove)
    return similarity
