"""Pairs of noise and image that a guided teacher connects, and the loss of a student that goes there straight.

Rectified flow on such pairs ("reflow", arXiv 2209.03003) makes the ways nearly straight, so that few Euler steps do,
and the student needs no guidance because the teacher's is in its images.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diff_es.errors import ArtifactError, InputError
from diff_es.progress import track
from diff_es.zoo.conditioning import draw_captions
from diff_es.zoo.data import CLASS_NAMES
from diff_es.zoo.flow import Lines, Velocity, sample, velocity_error
from diff_es.zoo.flux import positions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHARD: Final = 512
_BATCH: Final = 128
_KEY: Final = "diff_es_pairs"


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """The pairs that the student learns from.

    Attributes:
        count: pairs; a multiple of 512.
        steps: Euler steps of the teacher.
        guidance_scale: of the teacher.
        caption_dropout: share of the pairs with the empty caption.
        seed: of noise and captions.
    """

    count: int = 12_288
    steps: int = 10
    guidance_scale: float = 3.0
    caption_dropout: float = 0.05
    seed: int = 1

    def __post_init__(self) -> None:
        if self.count < _SHARD or self.count % _SHARD:
            raise InputError(f"count: must be a multiple of {_SHARD}, got {self.count}")


@dataclass(frozen=True)
class Pairs:
    """Noise, the image that the teacher makes of it, and the caption.

    Attributes:
        noise: (N, 16, 16) packed latents.
        images: (N, 16, 16) packed latents.
        captions: (N,) rows of :data:`diff_es.zoo.conditioning.ALL_CAPTIONS`.
    """

    noise: torch.Tensor
    images: torch.Tensor
    captions: torch.Tensor


def make_pairs(teacher: Velocity, plan: PairPlan, origin: Mapping[str, Any], folder: Path) -> Pairs:
    """Sample the pairs, or read those that an earlier run left in ``folder``.

    Args:
        teacher: the trained teacher.
        plan: which pairs.
        origin: JSON values that say how the teacher was made; pairs of another teacher are refused.
        folder: one file for every 512 pairs.

    Raises:
        InputError: ``folder`` holds pairs of another plan or teacher.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_by = json.dumps({"plan": asdict(plan), "teacher": dict(origin)}, sort_keys=True)
    shards = []
    for number in track(range(plan.count // _SHARD), "Sampling pairs", total=plan.count // _SHARD):
        path = folder / f"{number:04d}.safetensors"
        if not path.exists():
            _write(path, _sample_shard(teacher, plan, number), made_by)
        shards.append(_read(path, made_by))
    return Pairs(*(torch.cat([shard[key] for shard in shards]) for key in ("noise", "images", "captions")))


def _sample_shard(teacher: Velocity, plan: PairPlan, number: int) -> dict[str, torch.Tensor]:
    seed = int(np.random.default_rng([plan.seed, number]).integers(2**62))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CLASS_NAMES), (_SHARD,), generator=generator)
    captions = draw_captions(labels, plan.caption_dropout, generator)
    tokens = len(positions())
    noise = torch.randn(_SHARD, tokens, tokens, generator=generator)
    parts = zip(torch.split(noise, _BATCH), torch.split(captions, _BATCH), strict=True)
    images = [sample(teacher, *part, steps=plan.steps, guidance_scale=plan.guidance_scale) for part in parts]
    return {"noise": noise, "images": torch.cat(images), "captions": captions}


def _write(path: Path, tensors: dict[str, torch.Tensor], made_by: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, temporary, {_KEY: made_by})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"Cannot write {path}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, made_by: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as stored:
            if (stored.metadata() or {}).get(_KEY) != made_by:
                raise InputError(
                    f"output: {str(path)!r} was made by another teacher or plan; choose another folder, "
                    "or pass resume=False to start afresh"
                )
            return {key: stored.get_tensor(key) for key in ("noise", "images", "captions")}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: not a file of pairs ({error}); delete it to sample them again") from error


class StudentLoss:
    """Rectified flow on fixed pairs; only the time is drawn anew."""

    def __init__(self, velocity: Velocity, pairs: Pairs) -> None:
        """Keep the pairs."""
        self._velocity, self._pairs = velocity, pairs

    def __call__(self, rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """Return the loss of the pairs ``rows`` (B,), at times drawn evenly from [0, 1]."""
        times = torch.rand(len(rows), generator=generator)
        lines = Lines(self._pairs.images[rows], self._pairs.noise[rows], times, self._pairs.captions[rows])
        return velocity_error(self._velocity, lines, generator)
