"""COMPARE images: pure functions that say whether higher is better.

Most metrics compare a candidate with the dense model's result for the same seed, sample by sample. These are measures
of *fidelity to dense*, not of image quality. Metrics without a reference (`metrics.no_reference`) measure the quality
of the candidate alone. Sets of images are compared by what a classifier says of them:
`frechet_distance`, `inception_score`, `precision_recall`.
"""

from __future__ import annotations

from diff_es.metrics.fidelity import latent_cosine, latent_mse, psnr, ssim
from diff_es.metrics.frechet import Gaussian, frechet_between, frechet_distance, gaussian
from diff_es.metrics.inception_score import InceptionScore, inception_score
from diff_es.metrics.metric import Metric, MetricFunction, NoReferenceFunction, metrics, register_metric
from diff_es.metrics.no_reference import use_weights
from diff_es.metrics.precision_recall import PrecisionRecall, precision_recall

__all__ = [
    "Gaussian",
    "InceptionScore",
    "Metric",
    "MetricFunction",
    "NoReferenceFunction",
    "PrecisionRecall",
    "frechet_between",
    "frechet_distance",
    "gaussian",
    "inception_score",
    "latent_cosine",
    "latent_mse",
    "metrics",
    "precision_recall",
    "psnr",
    "register_metric",
    "ssim",
    "use_weights",
]
