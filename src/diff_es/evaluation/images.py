"""Images from fixed seeds: the same noise for the dense model and for every schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import denoiser_of, spec_of
from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.sampling import sample

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.sampling import Requests, SamplerConfig


def generate(pipe: Any, requests: Requests, sampler: SamplerConfig, *, batch_size: int) -> Tensor:
    """Generate one image per request with a class-conditional pipeline (DiTPipeline), dense or routed.

    Each image starts from noise of its own generator, so it depends on its own seed and not on `batch_size` (but for
    rounding). Only a sampler that draws noise at every step (DDPM) depends on the batch: DiTPipeline has it draw from
    one generator for all.

    Args:
        pipe: The pipeline; called as it is, on its own device.
        requests: Labels and seeds.
        sampler: Steps and guidance.
        batch_size: Images per call of the pipeline, ≥ 1.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the CPU, in the order of the requests.

    Raises:
        InputError: a label that the pipeline does not know, or batch_size < 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1.")
    spec_of(denoiser_of(pipe)).conditions(pipe, requests.labels)
    batches = list(requests.batches(batch_size))
    return torch.cat([sample(pipe, batch, sampler) for batch in track(batches, "Generating images")])
