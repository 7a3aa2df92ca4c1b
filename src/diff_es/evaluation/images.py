"""Images from fixed seeds: the same noise for the dense model and for every schedule, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.sampling import check_requests, sample

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.sampling import ImageRequests, SamplerConfig


def generate(pipe: Any, requests: ImageRequests, sampler: SamplerConfig, *, batch_size: int) -> Tensor:
    """Generate one image per request, dense or routed.

    All noise of an image is of its own generators; see `sample`.

    Args:
        pipe: The pipeline; called as it is, on its own device.
        requests: Labels (for DiTPipeline) or prompts (for text-to-image pipelines), and seeds.
        sampler: Steps and guidance.
        batch_size: Images per call of the pipeline, ≥ 1.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the CPU, in the order of the requests.

    Raises:
        InputError: a label that the pipeline does not know, labels for a text-to-image pipeline or prompts for a
            class-conditional one, or batch_size < 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1.")
    check_requests(pipe, requests)
    batches: list[ImageRequests] = list(requests.batches(batch_size))
    return torch.cat([sample(pipe, batch, sampler) for batch in track(batches, "Generating images")])


def producer(pipe: Any, sampler: SamplerConfig) -> Callable[[ImageRequests], dict[str, Tensor]]:
    """Return what `stored` calls for each batch: it samples {"images": (n, H, W, 3) uint8}."""
    return lambda batch: {"images": to_pixels(sample(pipe, batch, sampler), batch.seeds)}


def to_pixels(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Turn images in [0, 1] into pixels, as round(255 x): the nearest of the 256 values, as diffusers writes PNGs.

    Other evaluations truncate, or scale with 127.5 x + 128: that alone moves a distance by some hundredths.

    Args:
        images: (N, 3, H, W) in [0, 1].
        seeds: N seeds, for the message.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        InputError: an image holds NaN or infinity, which no pixel can show.
    """
    finite = images.isfinite().flatten(1).all(dim=1).tolist()
    broken = [seed for seed, good in zip(seeds, finite, strict=True) if not good]
    if broken:
        raise InputError(
            f"The images of the seeds {broken[:5]} hold NaN or infinity; check the model's dtype (float16 overflows: "
            "try bfloat16 or float32)."
        )
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
