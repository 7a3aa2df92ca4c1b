"""COMPARE images: pure functions that say whether higher is better.

Every metric compares a candidate with the dense model's result for the same seed, sample by sample. These are
measures of *fidelity to dense*, not of image quality; the Fréchet distance of `metrics.frechet` compares sets.
"""

from __future__ import annotations

from diff_es.metrics.fidelity import latent_cosine, latent_mse, psnr, ssim
from diff_es.metrics.frechet import Gaussian, frechet_distance, gaussian
from diff_es.metrics.metric import Metric, MetricFunction, metrics, register_metric

__all__ = [
    "Gaussian",
    "Metric",
    "MetricFunction",
    "frechet_distance",
    "gaussian",
    "latent_cosine",
    "latent_mse",
    "metrics",
    "psnr",
    "register_metric",
    "ssim",
]
