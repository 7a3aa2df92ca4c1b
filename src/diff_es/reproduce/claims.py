"""Does "A is better than B" hold here? Paired bootstrap over the seeds of the searches and over the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diff_es.evaluation import Quality, interval, over_seeds
from diff_es.report.metric_names import three_digits
from diff_es.reproduce.result import ClaimResult

if TYPE_CHECKING:
    from diff_es.evaluation import MemoryRecord
    from diff_es.reproduce.result import RowResult
    from diff_es.reproduce.table import Claim

LATENCY = "latency, batch "

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """One metric of one row over its searches.

    Attributes:
        value: Mean over the searches.
        replicates: That mean on each resample of searches and images; empty for a metric without.
    """

    value: float
    replicates: FloatArray

    def interval(self, bounds: tuple[float, float]) -> tuple[float, float] | None:
        """95 % interval of the value, within the least and greatest that there can be."""
        return interval(self.value, self.replicates, bounds) if len(self.replicates) else None


def pooled(qualities: Sequence[Quality], metric: str) -> Pooled:
    """Put the searches of one row together.

    Searches are drawn with replacement, and so are images; all rows of a table see the same draws, so that the
    difference between two rows is paired.
    """
    value = float(np.mean([quality.values[metric] for quality in qualities]))
    if any(metric not in quality.replicates for quality in qualities):
        return Pooled(value, np.empty(0))
    return Pooled(value, over_seeds(np.array([quality.replicates[metric] for quality in qualities])))


def judge_claim(
    claim: Claim,
    metric: str,
    qualities: Mapping[str, Sequence[Quality]],
    rows: Mapping[str, RowResult],
    *,
    higher_is_better: bool,
) -> ClaimResult:
    """Compare the two rows of a claim by one metric.

    Args:
        claim: The claim.
        metric: Name of the metric here.
        qualities: Row → the quality of each of its searches.
        rows: Row → its result.
        higher_is_better: Direction of the metric.
    """
    better, worse = (pooled(qualities[name], metric) for name in (claim.better, claim.worse))
    sign = 1 if higher_is_better else -1
    advantage = sign * (better.value - worse.value)
    drawn = len(better.replicates) and len(worse.replicates)
    spread = interval(advantage, sign * (better.replicates - worse.replicates)) if drawn else None
    return ClaimResult(
        better=claim.better,
        worse=claim.worse,
        paper_metric=claim.metric,
        metric=metric,
        higher_is_better=higher_is_better,
        ours=(better.value, worse.value),
        paper=paper_values(claim, rows),
        interval=spread,
    )


def timed(claim: ClaimResult) -> bool:
    """Whether the interval of a claim comes from the spread of timed runs, not from a bootstrap."""
    return claim.metric.startswith(LATENCY)


def cost_claim(claim: Claim, result: Mapping[str, RowResult], memory: Mapping[str, MemoryRecord]) -> ClaimResult | None:
    """Compare two rows by what they cost; None where the claim is of another kind.

    Latencies come with their spread, which gives a cautious interval: from the 10th percentile of one against the 90th
    of the other to the reverse. MACs, times of searches and bytes of tensors have none.
    """
    spread = None
    if claim.metric.startswith(LATENCY):
        size = int(claim.metric.removeprefix(LATENCY))
        fast, slow = (result[name].cost.latency_of(size) for name in (claim.better, claim.worse))
        ours = (fast.median_ms, slow.median_ms)
        spread = (slow.p10_ms - fast.p90_ms, slow.p90_ms - fast.p10_ms)
    elif claim.metric == "runtime":
        ours = runtime(result[claim.better]), runtime(result[claim.worse])
    elif claim.metric == "MACs":
        ours = result[claim.better].cost.macs_ratio, result[claim.worse].cost.macs_ratio
    elif claim.metric == "memory":
        ours = float(memory[claim.better].tensor_bytes), float(memory[claim.worse].tensor_bytes)
    else:
        return None
    return ClaimResult(
        better=claim.better,
        worse=claim.worse,
        paper_metric=claim.metric,
        metric=claim.metric,
        higher_is_better=False,
        ours=ours,
        paper=paper_values(claim, result),
        interval=spread,
    )


def runtime(row: RowResult) -> float:
    """Return the mean time of one search with its bank, in seconds; NaN where the bank's was not measured."""
    times = [own.search_seconds + (math.nan if own.bank_seconds is None else own.bank_seconds) for own in row.searches]
    return float(np.mean(times))


def paper_values(claim: Claim, rows: Mapping[str, RowResult]) -> tuple[float, float] | None:
    """Return the paper's values of both rows, None where it has none."""
    if claim.paper is not None:
        return claim.paper
    better, worse = rows[claim.better].paper.get(claim.metric), rows[claim.worse].paper.get(claim.metric)
    return None if better is None or worse is None else (better, worse)


def examined(claims: Sequence[ClaimResult], rows: Mapping[str, RowResult], fitness: str) -> tuple[ClaimResult, ...]:
    """Give every claim that does not plainly hold a paragraph of what the numbers say about why.

    Args:
        claims: All claims of a table.
        rows: Row → its result.
        fitness: The metric that the searches maximised.
    """
    return tuple(
        claim if claim.verdict == "holds" else _with_examination(claim, claims, rows, fitness) for claim in claims
    )


def _with_examination(
    claim: ClaimResult, claims: Sequence[ClaimResult], rows: Mapping[str, RowResult], fitness: str
) -> ClaimResult:
    sentences = [_resolution(claim)]
    if claim.better not in rows or claim.worse not in rows:
        return replace(claim, examination=" ".join(sentences))
    better, worse = rows[claim.better], rows[claim.worse]
    others = [
        own for own in claims if (own.better, own.worse) == (claim.better, claim.worse) and own.metric != claim.metric
    ]
    sentences += [f"By {own.metric} the same claim {_says(own)}." for own in others]
    if better.searches and worse.searches and claim.metric != fitness:
        mine, theirs = (np.mean([own.fitness for own in row.searches]) for row in (better, worse))
        if _same_probes(better, worse) and better.searches != worse.searches:
            sentences.append(
                f"On the searches' own probes the fitness ({fitness}) is {mine:.4g} against {theirs:.4g}: "
                + (
                    "the search did its work, and what it maximises is not what this metric measures."
                    if mine > theirs
                    else "the search did not find better schedules either."
                )
            )
    if len(better.searches) > 1 and (own := better.measurement(claim.metric)) and own.interval:
        sentences.append(
            f"Its {len(better.searches)} searches and the draw of images move the value of {claim.better!r} between "
            f"{own.interval[0]:.4g} and {own.interval[1]:.4g}."
        )
    if abs(better.cost.macs_ratio - worse.cost.macs_ratio) > 0.005:
        sentences.append(
            f"The two do not cost the same: {better.cost.macs_ratio:.1%} against {worse.cost.macs_ratio:.1%} of the "
            "dense MACs."
        )
    return replace(claim, examination=" ".join(sentences))


def _resolution(claim: ClaimResult) -> str:
    better, worse = claim.ours
    if claim.interval is None:
        return f"The values are {better:.4g} and {worse:.4g}."
    low, high = claim.interval
    form = three_digits(low, high)
    middle = "excludes" if claim.verdict == "does not hold" else "includes"
    values = f"The values are {better:.4g} and {worse:.4g}"
    return f"{values}; the interval of the advantage, {low:{form}} to {high:{form}}, {middle} 0."


def _says(claim: ClaimResult) -> str:
    return f"{claim.verdict} ({claim.ours[0]:.4g} against {claim.ours[1]:.4g})"


def _same_probes(a: RowResult, b: RowResult) -> bool:
    """Fitness values compare only where both were scored on the same probes."""
    return {own.seed for own in a.searches} == {own.seed for own in b.searches}
