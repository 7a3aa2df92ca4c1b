"""What a model costs: multiply-adds, parameters, latency, memory. Four different things; none stands for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from diff_es.errors import InputError
from diff_es.evaluation.latency import LatencyRecord

#: "denoiser": one denoiser call, averaged over a denoising run. "pipeline": a whole call, text encoder and VAE included.
Scope: TypeAlias = Literal["denoiser", "pipeline"]


@dataclass(frozen=True)
class LatencyEntry:
    """How long one call takes at one batch size.

    Attributes:
        batch_size: Images per call, ≥ 1.
        scope: What was timed.
        record: The times.
    """

    batch_size: int
    scope: Scope
    record: LatencyRecord


@dataclass(frozen=True)
class Cost:
    """What one schedule costs.

    Attributes:
        macs: Multiply-adds of all denoiser calls for one image, guidance included.
        macs_ratio: `macs` as a share of the dense model's, in (0, 1].
        parameters: Parameters of the dense denoiser.
        parameters_per_stage: Parameters that a call uses in each stage, stage 0 first; empty for the dense model.
        latency: Measured times; dense and schedules alternated within each entry.
    """

    macs: int
    macs_ratio: float
    parameters: int
    parameters_per_stage: tuple[int, ...] = ()
    latency: tuple[LatencyEntry, ...] = ()

    def latency_of(self, batch_size: int, scope: Scope = "pipeline") -> LatencyRecord:
        """Return the times at one batch size.

        Raises:
            InputError: it was not measured.
        """
        for entry in self.latency:
            if (entry.batch_size, entry.scope) == (batch_size, scope):
                return entry.record
        known = [(entry.batch_size, entry.scope) for entry in self.latency]
        raise InputError(f"No latency of batch_size={batch_size}, scope={scope!r} was measured; there are {known}.")
