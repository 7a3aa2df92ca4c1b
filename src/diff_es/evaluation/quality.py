"""The quality of a set of images: fidelity to dense and what a judge says, with bootstrap intervals over the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from diff_es.evaluation.bootstrap import RESAMPLES, interval, resamples
from diff_es.evaluation.cost import DENSE
from diff_es.evaluation.judge import Judge, Judged
from diff_es.evaluation.records import Measurement, Samples
from diff_es.metrics import metrics
from diff_es.progress import track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from diff_es.sampling import SamplerConfig

AGREEMENT = "label_agreement"
#: Wider features make a Fréchet distance too slow to compute hundreds of times.
_MAX_RESAMPLED_WIDTH = 512
#: Pixels that are compared at a time, at least one image: SSIM takes some 300 bytes for each of them.
_COMPARED_PIXELS = 2**20


@dataclass(frozen=True)
class Quality:
    """The metrics of one set of images.

    Attributes:
        values: Metric → value.
        replicates: Metric → its value on each of the bootstrap's resamples of the images; the resamples are the same
            for all sets of equal size. Metrics without an interval are left out.
    """

    values: dict[str, float]
    replicates: dict[str, tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What is known of each image; row i is image i everywhere.

    Attributes:
        fidelity: Name of a fidelity metric → (N,) values against dense; empty where there is no dense model.
        agrees: (N,) 1 where the judge sees the requested label, else 0; None where it does not know labels.
        judged: What the judge says; None without a judge.
    """

    fidelity: Mapping[str, Tensor]
    agrees: Tensor | None = None
    judged: Judged | None = None

    @classmethod
    def join(cls, parts: Sequence[ImageScores]) -> ImageScores:
        """Put the scores of consecutive images together; all parts hold the same kinds of scores."""
        agrees = [part.agrees for part in parts if part.agrees is not None]
        judged = [part.judged for part in parts if part.judged is not None]
        return cls(
            {name: torch.cat([part.fidelity[name] for part in parts]) for name in parts[0].fidelity},
            torch.cat(agrees) if agrees else None,
            Judged.join(judged) if judged else None,
        )

    @property
    def count(self) -> int:
        """Number of images."""
        known = [*self.fidelity.values(), self.agrees, self.judged.features if self.judged else None]
        return next(len(values) for values in known if values is not None)

    def take(self, rows: Tensor) -> ImageScores:
        """Return some of the images, in that order; an image may be taken more than once."""
        return ImageScores(
            {name: values[rows] for name, values in self.fidelity.items()},
            None if self.agrees is None else self.agrees[rows],
            None if self.judged is None else self.judged.take(rows),
        )


def fidelity(own: Mapping[str, Tensor], dense: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Compare stored samples with the dense ones of the same seeds, a few at a time.

    Args:
        own: "images" (N, H, W, 3) uint8 and "latents" (N, C, h, w); latents only where a metric needs them.
        dense: The same of the dense model.
        names: Registered metrics that compare with dense.
    """
    count, height, width, _ = own["images"].shape
    size = max(1, _COMPARED_PIXELS // (height * width))
    parts = [_compared(own, dense, names, slice(first, first + size)) for first in range(0, count, size)]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def _compared(
    own: Mapping[str, Tensor], dense: Mapping[str, Tensor], names: tuple[str, ...], rows: slice
) -> dict[str, Tensor]:
    """Compare some rows."""
    candidates, references = (
        {kind: _as_compared(kind, values[rows]) for kind, values in side.items()} for side in (own, dense)
    )
    return {
        name: metrics[name](candidates[metrics[name].needs], references[metrics[name].needs]).double() for name in names
    }


def agreement(judged: Judged, labels: Tensor) -> Tensor:
    """Return 1 where the largest logit is that of the requested label; logits that are not finite agree with none."""
    # argmax of NaN logits is an arbitrary class, which could be the requested one.
    right = (judged.logits.argmax(dim=1) == labels) & judged.logits.isfinite().all(dim=1)
    return right.double()


def assess(scores: ImageScores, judge: Judge | None) -> Quality:
    """Compute all metrics of a set of images, and their bootstrap replicates."""
    values = _resampled_values(scores, judge)
    coverage = judge.coverage(scores.judged) if judge and scores.judged else {}
    rows = torch.from_numpy(resamples(scores.count))
    wide = scores.judged is not None and scores.judged.features.shape[1] > _MAX_RESAMPLED_WIDTH
    resampled = replace(scores, judged=None) if wide else scores
    drawn = [
        _resampled_values(resampled.take(draw), judge)
        for draw in track(rows, "Drawing bootstrap resamples", total=RESAMPLES)
    ]
    return Quality({**values, **coverage}, {name: tuple(draw[name] for draw in drawn) for name in drawn[0]})


def bounds_of(name: str, judge: Judge | None) -> tuple[float, float]:
    """Return the least and greatest value that a number of `assess` can have."""
    if name in metrics:
        return metrics[name].bounds
    return (0, 1) if judge is None or name == AGREEMENT else judge.bounds[name]


def measurements(
    quality: Quality, judge: Judge | None, samples: Samples, sampling: SamplerConfig, device: str
) -> tuple[Measurement, ...]:
    """Return one record per metric."""
    return tuple(_measurement(name, quality, judge, Measured(samples, sampling, device)) for name in quality.values)


@dataclass(frozen=True)
class Measured:
    """What all measurements of one set of images share: which images, how they were sampled, and where."""

    samples: Samples
    sampling: SamplerConfig
    device: str


def _measurement(name: str, quality: Quality, judge: Judge | None, shared: Measured) -> Measurement:
    value, drawn = quality.values[name], quality.replicates.get(name)
    if name in metrics:
        own = metrics[name]
        made_by, weights, higher = own.version, own.weights_sha256(), own.higher_is_better
        reference = DENSE if own.reference else ""
    else:
        assert judge is not None  # all other metrics are a judge's
        made_by, weights, reference = judge.version, judge.weights, _reference(name, judge)
        higher = name != judge.names[0]
    return Measurement(
        metric=name,
        value=value,
        higher_is_better=higher,
        computed_by=made_by,
        samples=shared.samples,
        sampling=shared.sampling,
        device=shared.device,
        weights=weights,
        reference=reference,
        interval=interval(value, drawn, bounds_of(name, judge)) if drawn else None,
    )


def _reference(name: str, judge: Judge) -> str:
    """The inception score and label agreement look at the generated images alone."""
    return "" if name in {AGREEMENT, judge.names[1]} else judge.reference_name


def _resampled_values(scores: ImageScores, judge: Judge | None) -> dict[str, float]:
    values = {name: float(own.mean()) for name, own in scores.fidelity.items()}
    if scores.agrees is not None:
        values[AGREEMENT] = float(scores.agrees.mean())
    if judge is not None and scores.judged is not None:
        values |= judge.distances(scores.judged)
    return values


def _as_compared(kind: str, values: Tensor) -> Tensor:
    """Stored samples as the metrics read them: images (N, 3, H, W) in [0, 1]."""
    return values.permute(0, 3, 1, 2).float() / 255 if kind == "images" else values
