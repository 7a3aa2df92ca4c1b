"""The inception score: how sure a classifier is of each image, and how varied its answers are over all of them.

It is the inception score only on the logits of Inception-v3; on another classifier it is an *inception-score analogue*
and is always called so, because values on different classifiers cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from diff_es.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InceptionScore:
    """The score over the splits of one set of images.

    Attributes:
        mean: Mean over the splits, from 1 (one answer for all) to the number of classes; higher is better.
        std: Standard deviation over the splits (divided by their number), 0 for one split.
    """

    mean: float
    std: float


def inception_score(logits: Tensor, *, splits: int = 10, shuffle_seed: int | None = 2020) -> InceptionScore:
    """Return exp E[KL(p(y|x) ‖ p(y))] over splits of the images (Salimans et al. 2016, section 4), in float64.

    The images are permuted once, then cut into `splits` runs of equal length (±1), split i from row ⌊i N / splits⌋;
    p(y) is the mean within the split. The permutation matters where images come in the order of their classes. The
    default is that of torch-fidelity; 50,000 images in their given order (`shuffle_seed=None`) in 10 splits are
    ADM's protocol.

    Args:
        logits: (N, classes), N ≥ `splits`. For Inception-v3, those without the bias (`InceptionOutput.logits`).
        splits: Number of splits, ≥ 1.
        shuffle_seed: Seed of `numpy.random.RandomState(seed).permutation(N)`, whose stream numpy keeps for ever; None
            leaves the given order.

    Returns:
        Mean and standard deviation over the splits; NaN if any logit is not finite.

    Raises:
        InputError: not a matrix, or fewer images than splits.
    """
    if logits.ndim != 2 or not 1 <= splits <= logits.shape[0]:
        raise InputError(
            f"logits {tuple(logits.shape)} and splits={splits}: give a matrix (N, classes) and 1 ≤ splits ≤ N."
        )
    exact = logits.detach().to("cpu", torch.float64)
    if not exact.isfinite().all():
        return InceptionScore(float("nan"), float("nan"))
    if shuffle_seed is not None:
        exact = exact[torch.from_numpy(np.random.RandomState(shuffle_seed).permutation(len(exact)))]
    scores = torch.stack([_split_score(part.log_softmax(dim=1)) for part in exact.tensor_split(_starts(exact, splits))])
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def _starts(rows: Tensor, splits: int) -> tuple[int, ...]:
    """First row of every split but the first."""
    return tuple(split * len(rows) // splits for split in range(1, splits))


def _split_score(log_p: Tensor) -> Tensor:
    """Score one split, from log p(y|x) of shape (n, classes)."""
    log_marginal = log_p.logsumexp(dim=0) - np.log(len(log_p))
    divergence: Tensor = (log_p.exp() * (log_p - log_marginal)).sum(dim=1)
    return divergence.mean().exp()
