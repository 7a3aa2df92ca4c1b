"""Shared by the tests of baseline searches: stage plans for any space, and running a search to its end."""

from __future__ import annotations

from collections.abc import Callable

from diff_es.baselines import algorithms, settings_for
from diff_es.baselines.proposals import Proposals
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import EvolutionConfig, ScheduleSearch
from diff_es.stages import StagePlan


def plan_of(space: ScheduleSpace) -> StagePlan:
    """Stages with the denoiser calls of a space, over evenly spaced timesteps."""
    steps = sum(space.calls)
    timesteps = tuple(1000 * (steps - step - 0.5) / steps for step in range(steps))
    stages = tuple(stage for stage in reversed(range(space.num_stages)) for _ in range(space.calls[stage]))
    borders = tuple(1000 * sum(space.calls[:stage]) / steps for stage in range(space.num_stages + 1))
    return StagePlan(timesteps, stages, borders)


def make(name: str, space: ScheduleSpace, generations: int = 2, seed: int = 0) -> ScheduleSearch:
    """The search of that name, with as many evaluations as an evolution of so many generations."""
    settings = settings_for(name, space, EvolutionConfig(generations=generations, seed=seed))
    return algorithms[name](space, plan_of(space), settings)


def finish(algorithm: ScheduleSearch, fitness: Callable[[Levels], float]) -> dict[Levels, float]:
    """Run a search to its end; return the fitness of everything that it asked for, in order."""
    told: dict[Levels, float] = {}
    while not algorithm.done:
        candidates = algorithm.ask()
        assert candidates and not told.keys() & {candidate.levels for candidate in candidates}
        told |= {candidate.levels: fitness(candidate.levels) for candidate in candidates}
        algorithm.tell([(candidate, told[candidate.levels]) for candidate in candidates])
    return told


def drive(proposals: Proposals, fitness: Callable[[Levels], float]) -> tuple[list[list[Levels]], object]:
    """Run a bare generator to its end; return its batches and what it returned."""
    batches: list[list[Levels]] = []
    batch = next(proposals)
    while True:
        batches.append(list(batch))
        try:
            batch = proposals.send({levels: fitness(levels) for levels in batch})
        except StopIteration as end:
            return batches, end.value
