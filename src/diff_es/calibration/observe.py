"""Watch a model while it runs: hooks that feed the statistics of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diff_es.calibration.statistics import Accumulator, SecondMoment, Similarity, SquaredNorms, Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.denoisers import Layer


@contextmanager
def observed(denoiser: nn.Module, layers: Sequence[Layer], collect: Sequence[Statistic]) -> Iterator[list[Accumulator]]:
    """Hook accumulators to the layers; every hook is gone when the block ends."""
    accumulators: list[Accumulator] = []
    with ExitStack() as hooks:
        for layer in layers:
            if layer.kind == "block":
                accumulators.append(_watch_block(denoiser, layer, hooks))
                continue
            if "second_moment" in collect:
                accumulators += [_watch_input(denoiser, path, SecondMoment, hooks) for path in layer.outputs]
            if "input_norms" in collect:
                accumulators += [_watch_input(denoiser, path, SquaredNorms, hooks) for path in layer.scored]
        yield accumulators


def _watch_input(
    denoiser: nn.Module, path: str, kind: type[SecondMoment] | type[SquaredNorms], hooks: ExitStack
) -> SecondMoment | SquaredNorms:
    watched = denoiser.get_submodule(path)
    weight = denoiser.get_parameter(f"{path}.weight")
    accumulator = kind(path, weight.shape[1], weight.device)

    def update(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs: Tensor = args[0]
        # A 1 × 1 convolution is a linear whose inputs are the pixels, with their channels in the second dimension.
        rows = inputs.movedim(1, -1) if isinstance(watched, nn.Conv2d) else inputs
        with torch.autocast(inputs.device.type, enabled=False):
            accumulator.update(rows)

    hooks.callback(watched.register_forward_pre_hook(update).remove)
    return accumulator


def _watch_block(denoiser: nn.Module, layer: Layer, hooks: ExitStack) -> Similarity:
    similarity = Similarity(layer.name)
    absent = layer.families[0].absent
    assert absent is not None  # a block is nothing else

    def update(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        # The absent block is the one place that knows which inputs a block passes on.
        skipped = absent.forward(None, *args, **kwargs)
        similarity.update(skipped, output)

    hooks.callback(denoiser.get_submodule(layer.name).register_forward_hook(update, with_kwargs=True).remove)
    return similarity
