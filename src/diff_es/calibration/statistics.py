"""Streaming statistics of layer inputs, each the sum over batches of something that a pruner needs.

Everything accumulates outside autocast: inside a bfloat16 autocast XᵀX would itself be computed in bfloat16, and
the Cholesky factorisation of OBS would fail on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diff_es.calibration.precision import full_precision
from diff_es.denoisers import Layer

Statistic: TypeAlias = Literal["second_moment", "input_norms", "similarity", "step_weighted_moment", "importance"]
#: What enters or leaves a block.
_Streams: TypeAlias = Tensor | tuple[Tensor | None, ...]
#: Statistics of the whole denoising run: one set for all stages, and each collected in its own way.
WHOLE_RUN: frozenset[Statistic] = frozenset({"step_weighted_moment", "importance"})
#: Statistics of which whole matrices are kept.
MOMENTS: frozenset[Statistic] = frozenset({"second_moment", "step_weighted_moment"})
#: Values of a matrix that are converted at once.
_PART = 2**20


@dataclass(frozen=True)
class Moments:
    """Moments of the inputs x of one linear.

    Attributes:
        second: E[x xᵀ], shape (columns, columns), float32.
        mean: E[x], shape (columns,), float32.
        rows: Number of inputs that they were taken over (tokens of all samples). Where a group feeds several linears,
            the squared errors of these add up, so each moment counts with its rows.
    """

    second: Tensor
    mean: Tensor
    rows: float


@dataclass(frozen=True)
class LayerStatistics:
    """What calibration knows of one layer in one stage; None where it was not collected.

    Attributes:
        moments: For each output projection, the moments of its inputs.
        input_norms: For each input linear, ‖X_:,j‖₂ over all tokens, shape (columns of that linear,), float32.
        similarity: Mean cosine similarity between a block's input and output, in [-1, 1].
        step_weighted_moments: As `moments`, the steps of the denoising run weighted by `step_weights`.
        importance: For each input linear the sum of |θ Σ_t ∇L_t| over every row (weights and bias), shape (rows,);
            for each output projection over every column, shape (columns,); float32.
    """

    moments: dict[str, Moments] | None = None
    input_norms: dict[str, Tensor] | None = None
    similarity: float | None = None
    step_weighted_moments: dict[str, Moments] | None = None
    importance: dict[str, Tensor] | None = None


class Accumulator(Protocol):
    """Takes batches, gives named tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the statistic so far, keyed as it is stored."""


class SecondMoment:
    """H = E[x xᵀ] and E[x] of the input of one linear, summed in float64."""

    def __init__(self, name: str, columns: int, device: torch.device) -> None:
        self.name = name
        self.products = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self.sums = torch.zeros(columns, dtype=torch.float64, device=device)
        self.count = 0

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, shape (..., columns)."""
        rows = x.reshape(-1, x.shape[-1]).float()
        with full_precision():
            products = rows.T @ rows
        for part in self._parts():
            self.products[part] += products[part]
        self.sums += rows.sum(dim=0)
        self.count += len(rows)

    def tensors(self) -> dict[str, Tensor]:
        """Return the second moment, the mean and the number of rows."""
        second = torch.empty_like(self.products, dtype=torch.float32)
        for part in self._parts():
            second[part] = self.products[part] / self.count
        return {
            f"{self.name}/second_moment": second,
            f"{self.name}/mean": (self.sums / self.count).float(),
            f"{self.name}/rows": torch.tensor([float(self.count)]),
        }

    def _parts(self) -> Iterator[slice]:
        """Yield slices of rows: what is converted whole takes a float64 matrix more, as large as the sum itself."""
        length = max(1, _PART // len(self.products))
        yield from (slice(start, start + length) for start in range(0, len(self.products), length))


class SquaredNorms:
    """‖X_:,j‖₂ of the input of one linear (eq. 6)."""

    def __init__(self, name: str, columns: int, device: torch.device) -> None:
        self.name = name
        self.squares = torch.zeros(columns, dtype=torch.float64, device=device)

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, shape (..., columns)."""
        self.squares += x.reshape(-1, x.shape[-1]).float().square().sum(dim=0)

    def tensors(self) -> dict[str, Tensor]:
        """Return the column norms."""
        return {f"{self.name}/input_norms": self.squares.sqrt().float()}


class Similarity:
    """Mean cosine similarity between a block's input and output (eq. 5), one value per sample, then averaged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0.0
        self.count = 0

    def update(self, x: _Streams, y: _Streams) -> None:
        """Add a batch of inputs and outputs: (N, tokens, width) each, or several such (text and image) taken as one.

        A stream that the block does not pass on (None: nothing reads the text after the last block of SD3) is left out.
        """
        pairs = [(a, b) for a, b in zip(_streams(x), _streams(y), strict=True) if a is not None and b is not None]
        before, after = zip(*pairs, strict=True)
        cosines = F.cosine_similarity(_flat(before), _flat(after), dim=1)
        self.total += float(cosines.sum())
        self.count += len(cosines)

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean similarity as a tensor of one element."""
        return {f"{self.name}/similarity": torch.tensor([self.total / self.count])}


def _streams(value: _Streams) -> tuple[Tensor | None, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _flat(streams: tuple[Tensor, ...]) -> Tensor:
    """(N, all values), float64."""
    return torch.cat([stream.flatten(1).double() for stream in streams], dim=1)


def bytes_needed(denoiser: nn.Module, layer: Layer) -> int:
    """Return the device memory that the second moments of a layer take while they accumulate."""
    widths = (denoiser.get_parameter(f"{path}.weight").shape[1] for path in layer.outputs)
    return sum(8 * columns * (columns + 1) for columns in widths)


def step_weights(num_steps: int, lowest: float = 0.8, highest: float = 1.2) -> tuple[float, ...]:
    """Logarithmically decreasing weights of the sampler's steps (OBS-Diff, arXiv 2510.06751, eq. 4).

    α_t = lowest + (highest - lowest) / ln T · ln(T - t + 1) for t = 1…T: errors of early steps, which run through all
    later ones, count more.

    Args:
        num_steps: T, at least 1; the weight of a single step is `highest`.
        lowest: Weight of the last step; 0.8 in the authors' code.
        highest: Weight of the first step, the noisiest; 1.2 in the authors' code.

    Returns:
        One weight per step, in sampling order.
    """
    if num_steps == 1:
        return (highest,)
    scale = (highest - lowest) / math.log(num_steps)
    return tuple(lowest + scale * math.log(num_steps - step) for step in range(num_steps))
