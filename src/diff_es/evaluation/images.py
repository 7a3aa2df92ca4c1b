"""Images from fixed seeds: the same noise for the dense model and for every schedule, whatever the batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.sampling import check_requests, sample, seeded

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.sampling import ImageRequests, SamplerConfig

#: Tells the stream of a sampler's own noise from that of the initial latents of the same seed.
_STEP_NOISE = 1


def generate(pipe: Any, requests: ImageRequests, sampler: SamplerConfig, *, batch_size: int) -> Tensor:
    """Generate one image per request, dense or routed.

    Each image starts from noise of its own generator, and a sampler that draws noise at every step (DDPM, Euler
    ancestral) draws it from one of the image's own: an image depends on its seed and not on its batch (but for the
    rounding of matrix products, which differs from batch size to batch size).

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
    return torch.cat([_sampled(pipe, batch, sampler) for batch in track(batches, "Generating images")])


def producer(pipe: Any, sampler: SamplerConfig) -> Callable[[ImageRequests], dict[str, Tensor]]:
    """Return what `stored` calls for each batch: it samples {"images": (n, H, W, 3) uint8}."""
    return lambda batch: {"images": to_pixels(_sampled(pipe, batch, sampler), batch.seeds)}


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


def _sampled(pipe: Any, requests: ImageRequests, sampler: SamplerConfig) -> Tensor:
    """One call of the pipeline, (N, 3, H, W) float32 in [0, 1]."""
    with own_step_noise(pipe, requests.seeds):
        return sample(pipe, requests, sampler)


@contextmanager
def own_step_noise(pipe: Any, seeds: Sequence[int]) -> Iterator[None]:
    """Have the sampler draw the noise of its steps from one generator per image.

    DiTPipeline passes none on, and the sampler would draw from one generator for the whole batch. It also steps the
    guided and the unguided half together and keeps the first: both halves then draw from the same generators.
    """
    scheduler = pipe.scheduler
    if "generator" not in inspect.signature(scheduler.step).parameters:
        yield
        return
    generators = [seeded(seed, _STEP_NOISE) for seed in seeds]
    step = scheduler.step

    @functools.wraps(step)
    def own_step(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None:
            kwargs["generator"] = generators * (len(model_output) // len(generators))
        return step(model_output, *args, **kwargs)

    scheduler.step = own_step
    try:
        yield
    finally:
        del scheduler.step
