"""Judges by what they judge: the shipped classifier for the shipped models, Inception-v3 for ImageNet."""

from __future__ import annotations

from pathlib import Path

from diff_es.evaluation import Judge
from diff_es.evaluation.adm import adm_judge
from diff_es.evaluation.fashion import fashion_judge
from diff_es.evaluation.protocol import Given
from diff_es.pipelines import resolve_device

_FASHION = "zoo:fashion"


def known_judge(model: str) -> Judge | None:
    """Return the judge of a model's images, None where none is known.

    Args:
        model: "zoo:NAME", a folder, or a Hub id.
    """
    return fashion_judge() if model.startswith(_FASHION) else None


def adm(reference: Path, inception_weights: Path | None, device: str) -> Judge:
    """Return the judge of class-conditional ImageNet at 256 × 256 (see the protocol adm-imagenet256).

    Args:
        reference: ADM's reference batch, an .npz with mu, sigma and arr_0.
        inception_weights: File with the weights of Inception-v3; None takes torch's cache, or downloads them.
        device: "auto", "cpu", "cuda", …

    Raises:
        InputError: no such file, or no weights.
        ArtifactError: a file is damaged.
    """
    return adm_judge(Given(reference=reference, inception_weights=inception_weights, device=resolve_device(device)))
