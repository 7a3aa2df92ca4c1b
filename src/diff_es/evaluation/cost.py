"""What a model costs: multiply-adds, parameters, latency, memory. Four different things; none stands for another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diff_es.calibration import record_calls
from diff_es.denoisers import count_macs, denoiser_of, on_device
from diff_es.denoisers.macs import parameters_used
from diff_es.errors import InputError
from diff_es.evaluation.latency import Contender, LatencyRecord
from diff_es.evaluation.latency import LatencyEntry as LatencyEntry  # noqa: PLC0414 (part of a cost: offered here)
from diff_es.evaluation.latency import Scope as Scope  # noqa: PLC0414
from diff_es.evaluation.memory import MemoryRecord
from diff_es.sampling import SamplerConfig, any_requests

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers import Call
    from diff_es.stages import StagePlan

DENSE = "dense"


@dataclass(frozen=True)
class Cost:
    """What one schedule costs.

    Attributes:
        macs: Multiply-adds of all denoiser calls for one image, guidance included.
        macs_ratio: `macs` as a share of the dense model's, in (0, 1].
        parameters: Parameters of the dense denoiser.
        parameters_per_stage: Parameters that a call uses in each stage, stage 0 first; empty for the dense model.
        latency: Measured times; dense and schedules alternated within each entry.
        memory: What loading and generating take, in a process of its own; None where it was not measured.
    """

    macs: int
    macs_ratio: float
    parameters: int
    parameters_per_stage: tuple[int, ...] = ()
    latency: tuple[LatencyEntry, ...] = ()
    memory: MemoryRecord | None = None

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


def measure_costs(
    pipe: Any,
    contenders: Mapping[str, Contender],
    plan: StagePlan,
    sampler: SamplerConfig,
    latency: Mapping[str, tuple[LatencyEntry, ...]] | None = None,
) -> dict[str, Cost]:
    """Count multiply-adds and parameters of a pipeline's models, and put measured times beside them.

    Args:
        pipe: A class-conditional pipeline, dense; it is dense again afterwards.
        contenders: Name → context in which the pipeline is that model; "dense" must be among them.
        plan: The stages.
        sampler: Steps and guidance.
        latency: Name → times, from `measure_batch_sizes`.

    Raises:
        InputError: no contender "dense".
    """
    if DENSE not in contenders:
        raise InputError(f"contenders={sorted(contenders)} needs {DENSE!r}, which the others are compared with.")
    calls = _calls_of_one_image(pipe, sampler)
    parameters = sum(parameter.numel() for parameter in denoiser_of(pipe).parameters())
    macs, stages = {}, {}
    for name, contender in contenders.items():
        with contender():
            denoiser = denoiser_of(pipe)
            macs[name] = sum(count_macs(denoiser, call) for _, call in calls)
            stages[name] = () if name == DENSE else parameters_per_stage(denoiser, calls, plan)
    return {
        name: Cost(
            macs=macs[name],
            macs_ratio=macs[name] / macs[DENSE],
            parameters=parameters,
            parameters_per_stage=stages[name],
            latency=(latency or {}).get(name, ()),
        )
        for name in contenders
    }


def parameters_touched(denoiser: nn.Module, call: Mapping[str, Any]) -> int:
    """Return how many parameters of the denoiser one call uses: dense, less what a router has sliced or dropped.

    A table (of classes, of positions) counts whole, although a call reads a few of its rows.

    Args:
        denoiser: Dense or routed.
        call: The keyword arguments of one call.
    """
    return sum(parameter.numel() for parameter in parameters_used(denoiser, call))


def parameters_per_stage(denoiser: nn.Module, calls: list[tuple[float, Call]], plan: StagePlan) -> tuple[int, ...]:
    """Return the parameters that a call uses in each stage, stage 0 first.

    Args:
        denoiser: Dense or routed.
        calls: Denoiser calls with their timesteps, at least one in every stage (see `calibration.record_calls`).
        plan: The stages.

    Raises:
        InputError: a stage without a call.
    """
    first = {plan.stage_at(timestep): call for timestep, call in reversed(calls)}
    if missing := sorted(set(range(plan.num_stages)) - set(first)):
        raise InputError(f"calls has none in stages {missing}; sample with the steps that the plan was made for.")
    return tuple(parameters_touched(denoiser, first[stage]) for stage in range(plan.num_stages))


def _calls_of_one_image(pipe: Any, sampler: SamplerConfig) -> list[tuple[float, Call]]:
    device = next(denoiser_of(pipe).parameters()).device
    recorded = record_calls(pipe, any_requests(pipe, 1), sampler)
    return [(timestep, on_device(call, device)) for timestep, call in recorded]
