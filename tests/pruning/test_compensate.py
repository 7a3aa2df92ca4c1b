"""What a compensated layer gets wrong on its own inputs, against the best that any weights and biases could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diff_es.calibration.statistics import Moments
from diff_es.denoisers import Layer
from diff_es.denoisers.layers import GroupFamily, Span
from diff_es.pruning.compensate import compensate
from diff_es.pruning.trajectory import LayerTrajectory

HEADS, WIDTH, CHANNELS, ROWS, SAMPLES = 4, 3, 8, 6, 400
#: Small enough for the undamped least squares to be the oracle.
DAMPING = 1e-10


@dataclass(frozen=True)
class Projection:
    """One output projection with its calibration inputs, whose means are far from zero; float64."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None

    def error(self, columns: Tensor, weight: Tensor, bias: Tensor | None) -> float:
        """Mean squared error on the inputs of fewer columns."""
        wanted = self.inputs @ self.weight.T + (0.0 if self.bias is None else self.bias)
        found = self.inputs[:, columns] @ weight.T + (0.0 if bias is None else bias)
        return float((wanted - found).square().mean())

    def least_error(self, columns: Tensor, *, free_bias: bool) -> float:
        """The least that any weight on these columns reaches, with the bias left as it is or free to move."""
        parts = [self.inputs[:, columns], *([torch.ones(SAMPLES, 1).double()] if free_bias else [])]
        known = torch.cat(parts, dim=1)
        target = self.inputs @ self.weight.T
        return float((known @ torch.linalg.lstsq(known, target).solution - target).square().mean())


def projection(columns: int, seed: int, *, bias: bool) -> Projection:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = random(SAMPLES, columns) @ (torch.eye(columns).double() + random(columns, columns) / 3)
    return Projection(inputs + 3 * random(columns), random(ROWS, columns), random(ROWS) if bias else None)


def single(*, bias: bool) -> tuple[Layer, dict[str, Projection]]:
    """Heads that feed one linear."""
    family = GroupFamily("head", HEADS, columns=(Span("out", WIDTH),))
    return Layer("attn", "attention", (family,)), {"out": projection(HEADS * WIDTH, 0, bias=bias)}


def joint(*, bias: bool) -> tuple[Layer, dict[str, Projection]]:
    """Heads that feed two linears, of which the second has no bias in any case."""
    family = GroupFamily("head", HEADS, columns=(Span("image", WIDTH), Span("text", WIDTH)))
    parts = {"image": projection(HEADS * WIDTH, 1, bias=bias), "text": projection(HEADS * WIDTH, 2, bias=False)}
    return Layer("attn", "attention", (family,)), parts


def parallel(*, bias: bool) -> tuple[Layer, dict[str, Projection]]:
    """Heads and channels that share one linear."""
    families = (
        GroupFamily("head", HEADS, columns=(Span("out", WIDTH),)),
        GroupFamily("channel", CHANNELS, columns=(Span("out", offset=HEADS * WIDTH),)),
    )
    return Layer("block", "parallel", families), {"out": projection(HEADS * WIDTH + CHANNELS, 3, bias=bias)}


def solved(layer: Layer, parts: dict[str, Projection], *, intercept: bool) -> LayerTrajectory:
    parameters, moments = {}, {}
    for path, own in parts.items():
        parameters[f"{path}.weight"] = own.weight
        if own.bias is not None:
            parameters[f"{path}.bias"] = own.bias
        second = own.inputs.T @ own.inputs / SAMPLES
        moments[path] = Moments(second, own.inputs.mean(dim=0), SAMPLES)
    return compensate(layer, parameters, moments, num_levels=HEADS, damping=DAMPING, intercept=intercept)


def kept_columns(layer: Layer, kept: Sequence[int], path: str) -> Tensor:
    columns, first = [], 0
    for family in layer.families:
        for span in (span for span in family.columns if span.path == path):
            own = [group - first for group in kept if first <= group < first + family.count]
            columns += [span.offset + group * span.size + i for group in own for i in range(span.size)]
        first += family.count
    return torch.tensor(sorted(columns))


@pytest.mark.parametrize("make", [single, joint, parallel])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
def test_no_weights_on_the_kept_columns_come_closer(
    make: Callable[..., tuple[Layer, dict[str, Projection]]], bias: bool, intercept: bool
) -> None:
    """An intercept lets the bias move; where there is none, the weights alone must carry the mean."""
    layer, parts = make(bias=bias)
    found = solved(layer, parts, intercept=intercept)
    for level in range(1, HEADS):
        kept = found.order[layer.removed(HEADS)[level] :].tolist()
        for path, own in parts.items():
            columns, outputs = kept_columns(layer, kept, path), found.outputs[level]
            free = intercept and own.bias is not None
            assert (f"{path}.bias" in outputs) == free
            error = own.error(columns, outputs[f"{path}.weight"], outputs.get(f"{path}.bias", own.bias))
            assert error == pytest.approx(own.least_error(columns, free_bias=free), rel=1e-6)
