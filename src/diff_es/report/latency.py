"""Which latencies an evaluation holds, and which one stands for all in a headline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diff_es.evaluation import speedup

if TYPE_CHECKING:
    from diff_es.evaluation import Evaluation, ScheduleEvaluation
    from diff_es.evaluation.cost import Scope

#: In the order in which they are shown.
SCOPE_NAMES: dict[Scope, str] = {
    "pipeline": "A whole pipeline call",
    "denoiser": "One denoiser call",
}


@dataclass(frozen=True)
class Timed:
    """What was timed: a batch size and a scope."""

    batch_size: int
    scope: Scope


def timed(evaluation: Evaluation) -> tuple[Timed, ...]:
    """What was timed for the dense model and for every schedule, in the order of the dense model's record."""
    found = [{Timed(e.batch_size, e.scope) for e in schedule.cost.latency} for schedule in evaluation.schedules]
    shared = set.intersection(*found)
    return tuple(at for e in evaluation.dense.cost.latency if (at := Timed(e.batch_size, e.scope)) in shared)


def main_latency(evaluation: Evaluation) -> Timed | None:
    """Return what the headline quotes: a whole pipeline call if one was timed, at the largest batch size.

    None where no latency was measured. The tables show all batch sizes.
    """
    return max(timed(evaluation), key=lambda at: (at.scope == "pipeline", at.batch_size), default=None)


def speedup_at(evaluation: Evaluation, schedule: ScheduleEvaluation, at: Timed) -> float:
    """Return how many times as fast as dense a schedule is, by the medians; below 1 it is slower."""
    dense, own = (entry.cost.latency_of(at.batch_size, at.scope) for entry in (evaluation.dense, schedule))
    return speedup(dense, own)
