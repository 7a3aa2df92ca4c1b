"""What a metric is, and the registry that holds the built-in ones beside users' own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal, TypeAlias

import torchmetrics

from diff_es.errors import InputError
from diff_es.metrics.fidelity import latent_cosine, latent_mse, psnr, ssim
from diff_es.metrics.no_reference import CLIP_IQA, TOPIQ
from diff_es.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

#: (candidate, dense) → (N,) float: one value per sample, both arguments of the same shape (N, ...).
MetricFunction: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

#: candidate → (N,) float: one value per sample, for metrics without a reference.
NoReferenceFunction: TypeAlias = "Callable[[Tensor], Tensor]"

Needs: TypeAlias = Literal["images", "latents"]


def _no_weights() -> str:
    """There is no network behind the metric."""
    return ""


@dataclass(frozen=True)
class Metric:
    """A measure of one candidate: how near it is to the dense model's result, or how good it is by itself.

    Attributes:
        name: What recipes and reports call it.
        function: (candidate, dense) → (N,) float, one value per sample; without a reference (candidate) → (N,).
        higher_is_better: The direction; decided here once, so that nobody else has to know.
        needs: What the function reads: "images" (N, 3, H, W) in [0, 1], or "latents" (N, C, h, w).
        description: One phrase for tables and help texts.
        version: What computes it, with its version ("torchmetrics 1.9.0"); recorded beside every value.
        reference: Whether it compares with the dense model's result; without, the dense model is not needed.
        weights_sha256: Returns the sha256 of the network's weights file in use; "" where there is no network.
        bounds: Least and greatest value that there can be; intervals end there.
    """

    name: str
    function: MetricFunction | NoReferenceFunction
    higher_is_better: bool
    needs: Needs
    description: str = ""
    version: str = "user-defined"
    reference: bool = True
    weights_sha256: Callable[[], str] = _no_weights
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("Metric.name is empty; recipes and reports need a word for it.")
        if self.needs not in ("images", "latents"):
            raise InputError(f"Metric {self.name!r}: needs={self.needs!r} must be 'images' or 'latents'.")

    def __call__(self, candidate: Tensor, dense: Tensor | None = None) -> Tensor:
        """Return one value per sample, (N,) float, in the metric's own direction.

        Args:
            candidate: (N, ...), what `needs` says.
            dense: The dense model's result, of the same shape; ignored by a metric without a reference.

        Raises:
            InputError: dense is missing or of another shape, or the function returned something else than (N,) floats.
        """
        values = self._measure(candidate, dense)
        if values.shape != candidate.shape[:1] or not values.is_floating_point():
            raise InputError(
                f"Metric {self.name!r} returned {values.dtype} of shape {tuple(values.shape)}; "
                f"it must return one float per sample, shape ({candidate.shape[0]},)."
            )
        return values

    def _measure(self, candidate: Tensor, dense: Tensor | None) -> Tensor:
        """Call the function with what it takes."""
        function: Callable[..., Tensor] = self.function
        if not self.reference:
            return function(candidate)
        if dense is None:
            raise InputError(f"Metric {self.name!r} compares with the dense result, which was not given.")
        if candidate.shape != dense.shape:
            raise InputError(
                f"Metric {self.name!r}: candidate {tuple(candidate.shape)} and dense {tuple(dense.shape)} differ."
            )
        return function(candidate, dense)

    def score(self, candidate: Tensor, dense: Tensor | None = None) -> Tensor:
        """Return one value per sample, (N,) float, where higher is always better."""
        values = self(candidate, dense)
        return values if self.higher_is_better else -values


metrics: Registry[Metric] = Registry("metric")


def register_metric(  # noqa: PLR0913 (the fields of a Metric)
    name: str,
    function: MetricFunction | NoReferenceFunction,
    *,
    higher_is_better: bool,
    needs: Needs,
    description: str = "",
    reference: bool = True,
) -> Metric:
    """Add your own metric to the registry, so that a recipe can name it.

    Args:
        name: What recipes and reports call it.
        function: (candidate, dense) → (N,) float, one value per sample; with `reference=False` (candidate) → (N,).
        higher_is_better: Whether a larger value is better.
        needs: "images" (N, 3, H, W) in [0, 1], or "latents" (N, C, h, w).
        description: One phrase for tables and help texts.
        reference: Whether the function compares with the dense model's result.

    Returns:
        The registered metric.

    Raises:
        InputError: the name is taken or empty, or `needs` is no known word.
    """
    metric = Metric(name, function, higher_is_better, needs, description, reference=reference)
    return metrics.register(name, metric)


def _installed(package: str) -> str:
    """Return "package version" without importing it: an optional package costs nothing until it is used."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package}, not installed"


_TORCHMETRICS = f"torchmetrics {torchmetrics.__version__}"
_OWN = f"diff-es {version('diff-es')}"
_SSIM = "structural similarity to the dense image, 11 × 11 Gaussian window"
_PSNR = "peak signal-to-noise ratio to the dense image, in dB"
_MSE = "mean squared difference to the dense latents"
_COSINE = "cosine similarity to the dense latents"
_CLIP_IQA = "CLIP-IQA quality without a reference, in [0, 1]; images below 224 pixels are enlarged"
_TOPIQ = "TOPIQ quality without a reference, about [0, 1]; images below 224 pixels are enlarged; non-commercial licence"

for _metric in (
    Metric("ssim", ssim, True, "images", _SSIM, _TORCHMETRICS, bounds=(-1, 1)),
    Metric("psnr", psnr, True, "images", _PSNR, _TORCHMETRICS),
    Metric("latent_mse", latent_mse, False, "latents", _MSE, _OWN, bounds=(0, math.inf)),
    Metric("latent_cosine", latent_cosine, True, "latents", _COSINE, _OWN, bounds=(-1, 1)),
    Metric("clip_iqa", CLIP_IQA, True, "images", _CLIP_IQA, _installed("piq"), False, CLIP_IQA.weights_sha256, (0, 1)),
    Metric("topiq", TOPIQ, True, "images", _TOPIQ, _installed("pyiqa"), False, TOPIQ.weights_sha256),
):
    metrics.register(_metric.name, _metric)
