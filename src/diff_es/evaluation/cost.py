"""What a model costs: multiply-adds, parameters, latency, memory. Four different things; none stands for another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diff_es.denoisers import denoiser_of, spec_of
from diff_es.denoisers.macs import ParameterRecorder, flop_counter
from diff_es.errors import InputError
from diff_es.evaluation.latency import Contender, LatencyRecord
from diff_es.evaluation.latency import LatencyEntry as LatencyEntry  # noqa: PLC0414 (part of a cost: offered here)
from diff_es.evaluation.latency import Scope as Scope  # noqa: PLC0414
from diff_es.evaluation.memory import MemoryRecord
from diff_es.routing import Mode
from diff_es.sampling import SamplerConfig, any_requests, sample

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from diff_es.denoisers import DenoiserSpec
    from diff_es.stages import StagePlan

#: Name of the dense model, which all others are compared with.
DENSE = "dense"


@dataclass(frozen=True)
class Cost:
    """What one schedule costs.

    Attributes:
        macs: Multiply-adds of all denoiser calls for one image, guidance included.
        macs_ratio: `macs` as a share of the dense model's, in (0, 1].
        parameters: Parameters of the dense denoiser.
        parameters_per_stage: Parameters that calls use in each stage, stage 0 first; empty for the dense model.
        latency: Measured times; dense and schedules alternated within each entry.
        memory: What loading and generating take, in a process of its own; None where it was not measured.
        latency_mode: Memory mode in which a pruned model was timed; None where that was not written down.
    """

    macs: int
    macs_ratio: float
    parameters: int
    parameters_per_stage: tuple[int, ...] = ()
    latency: tuple[LatencyEntry, ...] = ()
    memory: MemoryRecord | None = None
    latency_mode: Mode | None = None

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
        pipe: The pipeline, dense; it is dense again afterwards.
        contenders: Name → context in which the pipeline is that model; "dense" must be among them.
        plan: The stages.
        sampler: Steps and guidance.
        latency: Name → times, from `measure_batch_sizes`.

    Raises:
        InputError: no contender "dense".
    """
    if DENSE not in contenders:
        raise InputError(f"contenders={sorted(contenders)} needs {DENSE!r}, which the others are compared with.")
    parameters = sum(parameter.numel() for parameter in denoiser_of(pipe).parameters())
    counts = {}
    for name, contender in contenders.items():
        with contender():
            counts[name] = count_run(pipe, plan, sampler)
    return {
        name: Cost(
            macs=count.macs,
            macs_ratio=count.macs / counts[DENSE].macs,
            parameters=parameters,
            parameters_per_stage=() if name == DENSE else count.parameters_per_stage,
            latency=(latency or {}).get(name, ()),
        )
        for name, count in counts.items()
    }


@dataclass(frozen=True)
class RunCount:
    """What the denoiser calls of one image use.

    Attributes:
        macs: Multiply-adds of all calls, guidance included.
        parameters_per_stage: Parameters that enter an operation in the calls of each stage, stage 0 first. A table
            (of classes, of positions) counts whole, although a call reads a few of its rows.
    """

    macs: int
    parameters_per_stage: tuple[int, ...]


def count_run(pipe: Any, plan: StagePlan, sampler: SamplerConfig) -> RunCount:
    """Sample one image and count what really runs: less what a router has sliced, and what a cache leaves out.

    Args:
        pipe: The pipeline as it is, dense or routed, with or without a cache.
        plan: The stages.
        sampler: Steps and guidance, those that the plan was made for.

    Raises:
        InputError: a stage without a call.
    """
    denoiser = denoiser_of(pipe)
    with flop_counter() as counter, ParameterRecorder() as recorder:
        run = _RunCounter(spec_of(denoiser), plan, counter, recorder)
        # The last of all hooks: a router that cuts a stage's weights out of the dense ones uses those in no call.
        before = denoiser.register_forward_pre_hook(run.enter, with_kwargs=True)
        after = denoiser.register_forward_hook(run.leave)
        try:
            sample(pipe, any_requests(pipe, 1), sampler)
        finally:
            before.remove()
            after.remove()
    if missing := [stage for stage, used in enumerate(run.used) if not used]:
        raise InputError(f"No denoiser call falls in stages {missing}; sample with the steps that the plan is for.")
    sizes = (sum(parameter.numel() for parameter in used.values()) for used in run.used)
    return RunCount(run.flops // 2, tuple(sizes))


class _RunCounter:
    """Books what runs within calls of the denoiser."""

    def __init__(
        self, spec: DenoiserSpec, plan: StagePlan, counter: FlopCounterMode, recorder: ParameterRecorder
    ) -> None:
        self.flops = 0
        self.used: list[dict[int, nn.Parameter]] = [{} for _ in range(plan.num_stages)]
        self._spec, self._plan, self._counter, self._recorder = spec, plan, counter, recorder
        self._before = 0

    def enter(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        stage = self._plan.stage_at(self._spec.timestep(denoiser, args, kwargs))
        self._recorder.seen = self.used[stage]
        self._before = self._counter.get_total_flops()

    def leave(self, *_: Any) -> None:
        self._recorder.seen = {}
        self.flops += self._counter.get_total_flops() - self._before
