"""The judge that is known for a model: for the shipped Fashion-MNIST models, the shipped classifier."""

from __future__ import annotations

from importlib.metadata import version

import torch

from diff_es import zoo
from diff_es.artifacts import sha256
from diff_es.evaluation import Judge, classifier_judge
from diff_es.zoo.classifier import WEIGHTS_NAME

_FASHION = "zoo:fashion"


def known_judge(model: str) -> Judge | None:
    """Return the judge of a model's images, None where none is known.

    Args:
        model: "zoo:NAME", a folder, or a Hub id.
    """
    if not model.startswith(_FASHION):
        return None
    reference = torch.from_numpy(zoo.reference_set().images)
    return classifier_judge(
        zoo.load_classifier(),
        reference,
        reference_name=f"{len(reference):,} Fashion-MNIST test images",
        version=f"diff-es {version('diff-es')}, fashion-classifier",
        weights=sha256(zoo.path("fashion-classifier") / WEIGHTS_NAME),
    )
