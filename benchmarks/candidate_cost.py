"""What a candidate of the search costs, in dense rollouts of the same probes.

Runs a whole search and, between its candidates, the dense pipeline on the same probes in the same batches. A candidate
should cost the denoiser calls that no earlier one has made, and next to nothing else: the time is split accordingly.

On a CPU the time is processor time, which does not depend on what else the machine does; the ratio in wall time is
given beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diff_es.bank import Bank
from diff_es.denoisers import denoiser_of
from diff_es.fitness import TrajectoryFitness, run
from diff_es.metrics import Metric, metrics
from diff_es.recipe import Recipe
from diff_es.run import Session
from diff_es.sampling import ImageRequests, SamplerConfig
from diff_es.schedule import Allocation, Levels, ScheduleSpace
from diff_es.search import EvolutionConfig, Outcome, SearchResult, search_schedule
from results import add_output_option, finish

#: Candidates between two dense rollouts.
_DENSE_EVERY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/candidate-cost"), help="where the bank is kept")
    parser.add_argument("--model", default="zoo:fashion-dit")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--allocations", nargs="+", default=["uniform", "sensitivity"])
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--probes", type=int, default=16)
    add_output_option(parser)
    arguments = parser.parse_args()
    recipe = Recipe.parse(
        {
            "model": arguments.model,
            "device": arguments.device,
            "calibration": {"samples": 256},
            "search": {"generations": arguments.generations, "probes": arguments.probes},
        }
    )
    session = Session(recipe, arguments.folder)
    rows = []
    for name in arguments.allocations:
        measured = candidate_cost(
            session.pipe,
            session.bank,
            session.allocation(name),
            session.search_probes(),
            session.sampler,
            space=session.space,
            config=session.evolution,
            batch_size=recipe.search.batch_size,
        )
        rows.append({"allocation": name, **measured})
        print(rows[-1], flush=True)
    about = {"model": arguments.model, "sparsity": recipe.search.sparsity, "stages": recipe.stages}
    about |= {"steps": session.sampler.num_inference_steps, "generations": arguments.generations}
    about |= {"probes": arguments.probes, "batch_size": recipe.search.batch_size, "metric": recipe.search.metric}
    finish({"benchmark": "candidate_cost", **about, "rows": rows}, arguments.json)


def candidate_cost(  # noqa: PLR0913 (each is one independent fact of the measurement)
    pipe: Any,
    bank: Bank,
    allocation: Allocation,
    probes: ImageRequests,
    sampler: SamplerConfig,
    *,
    space: ScheduleSpace,
    config: EvolutionConfig,
    metric: str = "ssim",
    batch_size: int = 16,
) -> dict[str, Any]:
    """Search once, with dense rollouts in between, and say what a candidate costs.

    Args:
        pipe: The dense pipeline.
        bank: The bank of its denoiser.
        allocation: What stage levels mean for layers.
        probes: What schedules are scored on.
        sampler: Steps and guidance.
        space: The schedules to search in.
        config: Settings of the search.
        metric: A registered metric.
        batch_size: Probes per run of the pipeline.

    Returns:
        The cost of a candidate in dense rollouts, and its parts in seconds. The search's own work is among them, as
        are the dense references; the dense rollouts in between are not.
    """
    clock = _Clock(next(denoiser_of(pipe).parameters()).device)
    spent = {part: _Stopwatch(clock) for part in ("denoiser", "decoding", "scoring")}
    fitness = TrajectoryFitness(
        pipe,
        bank,
        probes,
        allocation,
        metric=_timed_metric(metrics[metric], spent["scoring"]),
        sampler=sampler,
        batch_size=batch_size,
    )
    dense = _DenseRollouts(pipe, probes, sampler, batch_size, decode=metrics[metric].needs == "images", clock=clock)
    dense.measure()
    # The first run of a pipeline also sets things up.
    dense.seconds.clear()
    dense.wall_seconds.clear()
    outcomes: list[Outcome] = []

    def measured(levels: Levels) -> Outcome:
        if len(outcomes) % _DENSE_EVERY == 0:
            dense.measure()
        with _timed_parts(pipe, spent):
            outcomes.append(fitness(levels))
        return outcomes[-1]

    start, wall = clock.now(), time.perf_counter()
    result = search_schedule(measured, space, config)
    seconds = clock.now() - start - sum(dense.seconds)
    wall = time.perf_counter() - wall - sum(dense.wall_seconds)
    parts = {name: watch.read() for name, watch in spent.items()}
    in_wall_time = wall / result.evaluated / statistics.median(dense.wall_seconds)
    return _summary(result, outcomes, dense, seconds, parts) | {"cost_in_wall_time": in_wall_time}


def _summary(
    result: SearchResult, outcomes: list[Outcome], dense: _DenseRollouts, seconds: float, parts: dict[str, float]
) -> dict[str, Any]:
    """The cost of a candidate: as a ratio, and part by part in seconds."""
    rollout = statistics.median(dense.seconds)
    count = result.evaluated
    run_calls = sum(outcome.denoiser_calls for outcome in outcomes)
    all_calls = run_calls + sum(outcome.replayed_calls for outcome in outcomes)
    split = {**parts, "rest": seconds - sum(parts.values())}
    return {
        "evaluated": count,
        "fitness": result.fitness,
        "cost": seconds / count / rollout,
        "cost_by_part": {name: value / count / rollout for name, value in split.items()},
        "calls_run": run_calls / all_calls,
        "candidate_seconds": seconds / count,
        "dense_rollout_seconds": rollout,
        "dense_rollouts": len(dense.seconds),
    }


class _Clock:
    """Seconds: the processor's on a CPU, wall time for the whole and the stream's own for the parts on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def now(self) -> float:
        """The time when everything asked for so far is done."""
        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def mark(self) -> Any:
        """A point in time to be read later; a GPU is not waited for."""
        if not self.on_gpu:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds between two marks, all work being done."""
        return float(start.elapsed_time(end)) / 1000 if self.on_gpu else end - start


@dataclass
class _Stopwatch:
    """Adds up the time spent within `running` blocks."""

    clock: _Clock
    marks: list[tuple[Any, Any]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        start = self.clock.mark()
        try:
            yield
        finally:
            self.marks.append((start, self.clock.mark()))

    def read(self) -> float:
        """Seconds so far."""
        self.clock.now()
        return sum(self.clock.between(*pair) for pair in self.marks)

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its calls timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.running():
                return function(*args, **kwargs)

        return timed


def _timed_metric(metric: Metric, watch: _Stopwatch) -> Metric:
    """The same metric, timed until its values are there."""
    inner = metric.function

    def function(*images: Tensor) -> Tensor:
        with watch.running():
            return inner(*images)

    return replace(metric, function=function)


@contextmanager
def _timed_parts(pipe: Any, spent: dict[str, _Stopwatch]) -> Iterator[None]:
    """Time the denoiser's calls, without those that are replayed, and the VAE's decoding within the block."""
    denoiser, vae = denoiser_of(pipe), pipe.vae
    with ExitStack() as stack:
        for module, name, watch in ((denoiser, "forward", "denoiser"), (vae, "decode", "decoding")):
            setattr(module, name, spent[watch].timed(getattr(module, name)))
            stack.callback(delattr, module, name)
        yield


class _DenseRollouts:
    """The dense pipeline on the probes, in the batches of the search."""

    def __init__(  # noqa: PLR0913 (each is one independent fact of the measurement)
        self, pipe: Any, probes: ImageRequests, sampler: SamplerConfig, batch_size: int, *, decode: bool, clock: _Clock
    ) -> None:
        self.seconds: list[float] = []
        self.wall_seconds: list[float] = []
        self._pipe = pipe
        self._batches: list[ImageRequests] = list(probes.batches(batch_size))
        self._sampler = sampler
        self._decode = decode
        self._clock = clock

    def measure(self) -> None:
        """Sample all probes once and keep the time."""
        start, wall = self._clock.now(), time.perf_counter()
        for batch in self._batches:
            run(self._pipe, batch, self._sampler, decode=self._decode, device=None)
        self.seconds.append(self._clock.now() - start)
        self.wall_seconds.append(time.perf_counter() - wall)


if __name__ == "__main__":
    main()
