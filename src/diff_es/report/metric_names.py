"""How the report calls a metric: its name in full, its direction, how its values are written, what it does not say.

A metric that is not listed is shown under its own name. The classifier's metrics are never called FID or IS: their
features are another network's, and their values compare with nothing published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FIDELITY = (
    "SSIM, PSNR and latent distances say how near a schedule stays to the dense model, not how good its images are."
)
_CLASSIFIER = (
    "What is called “on classifier features” uses this project’s Fashion-MNIST classifier in place of the Inception "
    "network: it is not FID, IS, or precision and recall as published, and compares with nothing outside this project."
)


@dataclass(frozen=True)
class MetricName:
    """How a metric is shown.

    Attributes:
        title: Its name in full.
        higher_is_better: Its direction; None where only the measurement knows.
        form: Format of its values.
        note: What a reader must know to read it; may be empty.
        unit: Written after the value.
    """

    title: str
    higher_is_better: bool | None = None
    form: str = ".4g"
    note: str = ""
    unit: str = ""

    def text(self, value: float | None) -> str:
        """Write a value; a missing or broken measurement is called what it is."""
        return number(value, self.form, self.unit)


_NAMES = {
    "ssim": MetricName("SSIM to dense", True, ".3f", _FIDELITY),
    "psnr": MetricName("PSNR to dense", True, ".1f", _FIDELITY, "dB"),
    "latent_mse": MetricName("Latent MSE to dense", False, ".4f", _FIDELITY),
    "latent_cosine": MetricName("Latent cosine to dense", True, ".4f", _FIDELITY),
    "label_agreement": MetricName("Label agreement", True, ".1%"),
    "classifier_frechet": MetricName("Fréchet distance on classifier features", False, ".2f", _CLASSIFIER),
    "classifier_inception_score": MetricName(
        "Inception-score analogue on classifier features", True, ".2f", _CLASSIFIER
    ),
    "classifier_precision": MetricName("Precision on classifier features", True, ".3f", _CLASSIFIER),
    "classifier_recall": MetricName("Recall on classifier features", True, ".3f", _CLASSIFIER),
    "fid": MetricName("FID", False, ".2f"),
    "inception_score": MetricName("Inception score", True, ".2f"),
    "precision": MetricName("Precision", True, ".3f"),
    "recall": MetricName("Recall", True, ".3f"),
    "clip_score": MetricName("CLIP score (cosine)", True, ".4f"),
    "clip_iqa": MetricName("CLIP-IQA", True, ".4f"),
    "topiq": MetricName("TOPIQ", True, ".4f"),
}


def metric_name(metric: str) -> MetricName:
    """Return how a metric is shown; one that is not known keeps its own name."""
    return _NAMES.get(metric, MetricName(metric))


def metric_notes(metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a reader must know about these metrics, each remark once."""
    return tuple(dict.fromkeys(note for metric in metrics if (note := metric_name(metric).note)))


def three_digits(*values: float) -> str:
    """Return the format that shows about three digits of these numbers, the large ones without an exponent."""
    return ",.0f" if max(map(abs, values)) >= 999.5 else ".3g"


def number(value: float | None, form: str, unit: str = "") -> str:
    """Format a number; a missing or broken measurement is called what it is."""
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "not finite"
    space = "" if unit in {"×", "%"} else " "
    return f"{format(value, form)}{space}{unit}".rstrip()
