"""What a candidate of the search costs, in dense rollouts of the same probes.

Runs a whole search and, between its candidates, the dense pipeline on the same probes in the same batches. A candidate
should cost the denoiser calls that no earlier one has made, and next to nothing else: the time is split accordingly.
The schedules that a search starts from have little in common, and their offspring much: both are given apart, so that a
short search tells what a long one takes.

On a CPU the time is processor time, which does not depend on what else the machine does; the ratio in wall time is
given beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diff_es.bank import ThinSource
from diff_es.denoisers import denoiser_of
from diff_es.fitness import TrajectoryFitness, run
from diff_es.metrics import Metric, metrics
from diff_es.recipe import Recipe
from diff_es.run import Session
from diff_es.sampling import ImageRequests, SamplerConfig, any_requests
from diff_es.schedule import Allocation, ScheduleSpace
from diff_es.search import Candidate, EvolutionarySearch, EvolutionConfig, GenerationRecord, Outcome, Trial, search_with
from random_models import MODELS, RandomPruning
from results import add_device_option, add_output_option, finish, keep_so_far

#: Candidates between two dense rollouts.
_DENSE_EVERY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/candidate-cost"), help="where the bank is kept")
    parser.add_argument("--model", default="zoo:fashion-dit", help=f"also {', '.join(MODELS)}, with random weights")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of a size")
    parser.add_argument("--allocations", nargs="+", default=["uniform", "sensitivity"], help="of a model with a bank")
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    add_device_option(parser)
    add_output_option(parser)
    arguments = parser.parse_args()
    subjects = random_subjects(arguments) if arguments.model in MODELS else trained_subjects(arguments)
    config = EvolutionConfig(generations=arguments.generations)
    record: dict[str, Any] = {"benchmark": "candidate_cost", "model": arguments.model, "device": arguments.device}
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows[-1].update(row)
        keep_so_far(record, arguments.json, arguments.device)

    for subject in subjects:
        sampler, space = subject.sampler, subject.space
        record |= {"sparsity": space.sparsity, "stages": space.num_stages, "steps": sampler.num_inference_steps}
        record |= {"generations": arguments.generations, "probes": arguments.probes}
        record |= {"batch_size": arguments.batch_size, "metric": "ssim", "rows": rows}
        rows.append({"allocation": subject.allocation.name})
        candidate_cost(subject, config=config, keep=keep)
        print(rows[-1], flush=True)
    finish(record, arguments.json, arguments.device)


@dataclass(frozen=True)
class Subject:
    """What is searched.

    Attributes:
        pipe: The dense pipeline.
        source: The bank of its denoiser.
        allocation: What stage levels mean for layers.
        probes: What schedules are scored on.
        sampler: Steps and guidance.
        space: The schedules to search in.
        batch_size: Probes per run of the pipeline.
    """

    pipe: Any
    source: ThinSource
    allocation: Allocation
    probes: ImageRequests
    sampler: SamplerConfig
    space: ScheduleSpace
    batch_size: int


def trained_subjects(arguments: argparse.Namespace) -> Iterator[Subject]:
    """A model as it is, calibrated, under each allocation."""
    recipe = Recipe.parse(
        {
            "model": arguments.model,
            "device": arguments.device,
            "calibration": {"samples": 256},
            "search": {"probes": arguments.probes},
        }
    )
    session = Session(recipe, arguments.folder)
    for name in arguments.allocations:
        allocation, probes = session.allocation(name), session.search_probes()
        yield Subject(
            session.pipe, session.bank, allocation, probes, session.sampler, session.space, arguments.batch_size
        )


def random_subjects(arguments: argparse.Namespace) -> Iterator[Subject]:
    """A published size with random weights: what a candidate costs does not depend on them."""
    model = MODELS[arguments.model]
    pipe = model.build(torch.device(arguments.device), getattr(torch, arguments.dtype))
    plan = model.plan(pipe)
    source = RandomPruning(denoiser_of(pipe), plan, model.levels)
    space = ScheduleSpace(plan.steps_per_stage, model.levels, 0.5, (model.levels,) * plan.num_stages)
    probes = any_requests(pipe, arguments.probes)
    sampler = SamplerConfig(model.steps)
    yield Subject(pipe, source, source.uniform_allocation(), probes, sampler, space, arguments.batch_size)


def candidate_cost(
    subject: Subject, *, config: EvolutionConfig, keep: Callable[[dict[str, Any]], None], metric: str = "ssim"
) -> dict[str, Any]:
    """Search once, with dense rollouts in between, and say what a candidate costs.

    Args:
        subject: What is searched.
        config: Settings of the search.
        keep: Given, after every generation, what would be returned if it were the last.
        metric: A registered metric.

    Returns:
        The cost of a candidate in dense rollouts, and its parts in seconds; of the start schedules and of their
        offspring apart as well. The search's own work is among them, as are the dense references; the dense rollouts in
        between are not.
    """
    pipe, probes, sampler, batch_size = subject.pipe, subject.probes, subject.sampler, subject.batch_size
    clock = _Clock(next(denoiser_of(pipe).parameters()).device)
    spent = {part: _Stopwatch(clock) for part in ("denoiser", "decoding", "scoring")}
    fitness = TrajectoryFitness(
        pipe,
        subject.source,
        probes,
        subject.allocation,
        metric=_timed_metric(metrics[metric], spent["scoring"]),
        sampler=sampler,
        batch_size=batch_size,
    )
    dense = _DenseRollouts(pipe, probes, sampler, batch_size, decode=metrics[metric].needs == "images", clock=clock)
    dense.measure()
    # The first run of a pipeline also sets things up.
    dense.seconds.clear()
    dense.wall_seconds.clear()
    measured: list[_Measured] = []
    row: dict[str, Any] = {}

    def evaluate(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome, float]]:
        for trial in trials:
            if len(measured) % _DENSE_EVERY == 0:
                dense.measure()
            before = clock.now()
            with _timed_parts(pipe, spent):
                outcome = fitness(trial.candidate.levels)
            measured.append(_Measured(trial.candidate, outcome, clock.now() - before))
            yield trial, outcome, measured[-1].seconds

    def summarise(record: GenerationRecord) -> None:
        seconds = clock.now() - start - sum(dense.seconds)
        wall = time.perf_counter() - wall_start - sum(dense.wall_seconds)
        parts = {name: watch.read() for name, watch in spent.items()}
        row.update(_summary(measured, dense, seconds, parts), fitness=record.best)
        row["cost_in_wall_time"] = wall / len(measured) / statistics.median(dense.wall_seconds)
        keep(row)

    start, wall_start = clock.now(), time.perf_counter()
    search_with(EvolutionarySearch(subject.space, config), evaluate, None, summarise, seed=config.seed)
    return row


@dataclass(frozen=True)
class _Measured:
    """A candidate, what came of it, and the seconds that it took."""

    candidate: Candidate
    outcome: Outcome
    seconds: float


def _summary(
    measured: Sequence[_Measured], dense: _DenseRollouts, seconds: float, parts: dict[str, float]
) -> dict[str, Any]:
    """The cost of a candidate: as a ratio, and part by part in seconds."""
    rollout = statistics.median(dense.seconds)
    count = len(measured)
    split = {**parts, "rest": seconds - sum(parts.values())}
    groups = {
        "starts": [one for one in measured if one.candidate.generation == 0],
        "offspring": [one for one in measured if one.candidate.generation > 0],
    }
    return {
        "evaluated": count,
        "cost": seconds / count / rollout,
        "cost_by_part": {name: value / count / rollout for name, value in split.items()},
        "calls_run": _calls_run(measured),
        "candidate_seconds": seconds / count,
        "dense_rollout_seconds": rollout,
        "dense_rollouts": len(dense.seconds),
        **{name: _group(group, rollout) for name, group in groups.items() if group},
    }


def _group(measured: Sequence[_Measured], rollout: float) -> dict[str, Any]:
    """What the candidates of one kind cost, each."""
    seconds = statistics.fmean(one.seconds for one in measured)
    return {
        "evaluated": len(measured),
        "cost": seconds / rollout,
        "calls_run": _calls_run(measured),
        "candidate_seconds": seconds,
    }


def _calls_run(measured: Sequence[_Measured]) -> float:
    """Share of the denoiser calls that were run; the others were replayed."""
    run = sum(one.outcome.denoiser_calls for one in measured)
    return run / (run + sum(one.outcome.replayed_calls for one in measured))


class _Clock:
    """Seconds: the processor's on a CPU, wall time for the whole and the stream's own for the parts on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._device = device

    def now(self) -> float:
        """The time when everything asked for so far is done."""
        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def mark(self) -> Any:
        """A point in time to be read later; a GPU is not waited for."""
        if not self.on_gpu:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
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
