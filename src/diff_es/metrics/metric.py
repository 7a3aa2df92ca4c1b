"""What a metric is, and the registry that holds the built-in ones beside users' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, TypeAlias

import torchmetrics

from diff_es.errors import InputError
from diff_es.metrics.fidelity import latent_cosine, latent_mse, psnr, ssim
from diff_es.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

#: (candidate, dense) → (N,) float: one value per sample, both arguments of the same shape (N, ...).
MetricFunction: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

Needs: TypeAlias = Literal["images", "latents"]


@dataclass(frozen=True)
class Metric:
    """A measure of how near a candidate is to the dense model's result.

    Attributes:
        name: What recipes and reports call it.
        function: (candidate, dense) → (N,) float, one value per sample.
        higher_is_better: The direction; decided here once, so that nobody else has to know.
        needs: What the function compares: "images" (N, 3, H, W) in [0, 1], or "latents" (N, C, h, w).
        description: One phrase for tables and help texts.
        version: What computes it, with its version ("torchmetrics 1.9.0"); recorded beside every value.
    """

    name: str
    function: MetricFunction
    higher_is_better: bool
    needs: Needs
    description: str = ""
    version: str = "user-defined"

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("Metric.name is empty; recipes and reports need a word for it.")
        if self.needs not in ("images", "latents"):
            raise InputError(f"Metric {self.name!r}: needs={self.needs!r} must be 'images' or 'latents'.")

    def __call__(self, candidate: Tensor, dense: Tensor) -> Tensor:
        """Return one value per sample, (N,) float, in the metric's own direction.

        Raises:
            InputError: the shapes differ, or the function returned something else than (N,) floats.
        """
        if candidate.shape != dense.shape:
            raise InputError(
                f"Metric {self.name!r}: candidate {tuple(candidate.shape)} and dense {tuple(dense.shape)} differ."
            )
        values = self.function(candidate, dense)
        if values.shape != candidate.shape[:1] or not values.is_floating_point():
            raise InputError(
                f"Metric {self.name!r} returned {values.dtype} of shape {tuple(values.shape)}; "
                f"it must return one float per sample, shape ({candidate.shape[0]},)."
            )
        return values

    def score(self, candidate: Tensor, dense: Tensor) -> Tensor:
        """Return one value per sample, (N,) float, where higher is always better."""
        values = self(candidate, dense)
        return values if self.higher_is_better else -values


metrics: Registry[Metric] = Registry("metric")


def register_metric(
    name: str, function: MetricFunction, *, higher_is_better: bool, needs: Needs, description: str = ""
) -> Metric:
    """Add your own metric to the registry, so that a recipe can name it.

    Args:
        name: What recipes and reports call it.
        function: (candidate, dense) → (N,) float, one value per sample.
        higher_is_better: Whether a larger value means nearer to dense.
        needs: "images" (N, 3, H, W) in [0, 1], or "latents" (N, C, h, w).
        description: One phrase for tables and help texts.

    Returns:
        The registered metric.

    Raises:
        InputError: the name is taken or empty, or `needs` is no known word.
    """
    return metrics.register(name, Metric(name, function, higher_is_better, needs, description))


_TORCHMETRICS = f"torchmetrics {torchmetrics.__version__}"
_OWN = f"diff-es {version('diff-es')}"
_SSIM = "structural similarity to the dense image, 11 × 11 Gaussian window"
_PSNR = "peak signal-to-noise ratio to the dense image, in dB"
_MSE = "mean squared difference to the dense latents"
_COSINE = "cosine similarity to the dense latents"

for _metric in (
    Metric("ssim", ssim, True, "images", _SSIM, _TORCHMETRICS),
    Metric("psnr", psnr, True, "images", _PSNR, _TORCHMETRICS),
    Metric("latent_mse", latent_mse, False, "latents", _MSE, _OWN),
    Metric("latent_cosine", latent_cosine, True, "latents", _COSINE, _OWN),
):
    metrics.register(_metric.name, _metric)
