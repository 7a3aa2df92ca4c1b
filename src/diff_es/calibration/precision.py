"""Matrix products of float32 as such, whatever a user has allowed for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices without TF32 (NVIDIA GPUs) and bfloat16 (CPUs); the settings are as before afterwards.

    Both have been switched on by who follows a guide to speed, and leave 10 and 7 bits of each factor: enough for a
    prediction, not for a Hessian that is factorised.
    """
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [own.fp32_precision for own in products]
    for own in products:
        own.fp32_precision = "ieee"
    try:
        yield
    finally:
        for own, value in zip(products, before, strict=True):
            own.fp32_precision = "none"  # what a wider setting gives is not made a setting of its own
            if own.fp32_precision != value:
                own.fp32_precision = value
