"""First-order importance over a whole denoising run (Diff-Pruning: Fang, Ma and Wang, NeurIPS 2023, arXiv 2305.10924).

A weight θ_k whose removal changes the loss most matters most; to first order that change is θ_k times the gradient.
The loss is the one that the model was trained with, L_t = ‖ε - ε_θ(x_t, t)‖², and the gradients of all timesteps are
summed before the absolute value is taken,

    I = Σ_k |θ_k · Σ_{t: L_t / L_max > T} ∂L_t/∂θ_k|.

Timesteps of small loss are left out: there the model only has to repeat the noise that it was given, and their
gradients say little about the image. The paper goes through all 1000 train timesteps; here t runs over the sampler's
own steps, the only ones at which the pruned model is used.

The loss covers the same rows as any other calibration: with guidance the conditional and the unconditional half.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

from diff_es.calibration.sources import TargetSource
from diff_es.denoisers import Layer, denoiser_of, each_tensor
from diff_es.errors import InputError
from diff_es.progress import track

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.calibration.sources import CalibrationSource
    from diff_es.denoisers import Call

#: T of the paper and of its published code: the share of the largest loss that a timestep's loss must exceed.
LOSS_THRESHOLD = 0.05


def target_source(source: CalibrationSource) -> TargetSource:
    """Return the source, having checked that it knows what the denoiser should predict.

    Raises:
        InputError: it does not.
    """
    if not isinstance(source, TargetSource):
        raise InputError(
            f"Diff-Pruning needs the denoising loss of clean images, which {type(source).__name__} does not have; "
            "calibrate with `source: dataset` (DatasetSource)."
        )
    return source


def denoising_losses(pipe: Any, source: TargetSource, timesteps: Sequence[float]) -> tuple[float, ...]:
    """Return the mean denoising loss L_t at every timestep, without gradients."""
    denoiser = denoiser_of(pipe)
    tensors = _tensors(denoiser, ())
    losses = []
    with torch.no_grad(), _exact(denoiser):
        for timestep in track(timesteps, "Measuring losses"):
            total, rows = 0.0, 0
            for call, target in source.targets(pipe, timestep):
                total += float(_loss(denoiser, tensors, call, target)) * len(target)
                rows += len(target)
            losses.append(total / rows)
    return tuple(losses)


def contributing(
    timesteps: Sequence[float], losses: Sequence[float], threshold: float = LOSS_THRESHOLD
) -> tuple[float, ...]:
    """Return the timesteps whose loss exceeds `threshold` times the largest one.

    Raises:
        InputError: a loss is NaN or infinite, or all are zero.
    """
    broken = [t for t, loss in zip(timesteps, losses, strict=True) if not math.isfinite(loss)]
    if broken or max(losses) <= 0:
        raise InputError(
            f"The denoising loss is {'zero everywhere' if not broken else f'not finite at timesteps {broken[:4]}'}; "
            "check the model's weights and the calibration images."
        )
    least = threshold * max(losses)
    return tuple(t for t, loss in zip(timesteps, losses, strict=True) if loss > least)


def importance(
    pipe: Any, source: TargetSource, layers: Sequence[Layer], timesteps: Sequence[float]
) -> dict[str, Tensor]:
    """Sum |θ Σ_t ∂L_t/∂θ| over the rows of every input linear, and the columns of every output projection.

    The model's own parameters are neither changed nor given gradients, whatever their `requires_grad`: the call runs
    on tensors that share their memory (in float32 where the model is half precision).

    Args:
        pipe: The dense pipeline.
        source: Gives calls with targets.
        layers: The layers to score; memory for one gradient of all their linears is needed, and their activations.
        timesteps: The timesteps to sum over.

    Returns:
        `{path}/importance`, float32 on the CPU: (rows,) of input linears, (columns,) of output projections.
    """
    denoiser = denoiser_of(pipe)
    paths = [path for layer in layers for path in (*layer.inputs, *layer.outputs)]
    names = [f"{path}.{name}" for path in paths for name, _ in _parameters(denoiser, path)]
    tensors = _tensors(denoiser, names)
    leaves = [tensors[name] for name in names]
    rows = 0
    with torch.enable_grad(), _exact(denoiser):
        for timestep in track(timesteps, "Accumulating gradients"):
            for call, target in source.targets(pipe, timestep):
                (_loss(denoiser, tensors, call, target) * len(target)).backward(inputs=leaves)  # type: ignore[no-untyped-call]
                rows += len(target)
    # L_t is the mean over its rows, and every timestep has as many.
    scale = len(timesteps) / rows
    result: dict[str, Tensor] = {}
    for layer in layers:
        for path in layer.inputs:
            products = [_product(tensors[f"{path}.{name}"]) for name, _ in _parameters(denoiser, path)]
            result[f"{path}/importance"] = torch.cat(products, dim=1).sum(dim=1)
        for path in layer.outputs:
            result[f"{path}/importance"] = _product(tensors[f"{path}.weight"]).sum(dim=0)
    return {name: (scale * vector).float().cpu() for name, vector in result.items()}


def _parameters(denoiser: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    """Weight, and bias where there is one, of a linear."""
    return denoiser.get_submodule(path).named_parameters(recurse=False)


def _product(leaf: Tensor) -> Tensor:
    """|θ · gradient|, float64, shape (rows, columns); zero where no gradient came."""
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    product = (leaf.detach().double() * gradient.double()).abs()
    return product.reshape(len(product), product.shape[1] if product.ndim > 1 else 1, -1).sum(dim=2)


def _tensors(denoiser: nn.Module, wanted: Collection[str]) -> dict[str, Tensor]:
    """Return the denoiser's parameters and buffers for a functional call; only the wanted take gradients."""
    names = frozenset(wanted)
    return {
        name: _upcast(tensor.detach()).requires_grad_(name in names)
        for name, tensor in chain(denoiser.named_parameters(), denoiser.named_buffers())
    }


def _upcast(tensor: Tensor) -> Tensor:
    """Half precision would lose small gradients; float32 and float64 stay what they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _loss(denoiser: nn.Module, tensors: dict[str, Tensor], call: Call, target: Tensor) -> Tensor:
    """Mean squared error of one call; of the channels that it predicts, those after the first C are a variance."""
    arguments = each_tensor(call, _upcast)
    output: Tensor = functional_call(denoiser, tensors, kwargs={**arguments, "return_dict": False})[0]
    channels = target.shape[1]
    if output.shape[1] not in (channels, 2 * channels):
        raise InputError(
            f"The denoiser gives {output.shape[1]} channels for latents of {channels}; the denoising loss is known for "
            "as many, or for twice as many (learned variance)."
        )
    return F.mse_loss(output[:, :channels], target.to(output))


@contextmanager
def _exact(denoiser: nn.Module) -> Iterator[None]:
    """Outside autocast, which would round the upcast weights again."""
    device = next(denoiser.parameters()).device.type
    with torch.autocast(device, enabled=False):
        yield
