"""The start population: uniform, seven patterns, random compositions and schedules that the user gives (§3.2).

A pattern is a profile over the stages with values in [−1, 1] (1 = pruned most). It is laid around the uniform
level so that it swings half-way to the nearer bound: at 50 % and H = 16 between levels 4 and 12. Full swings
would prune some stages away entirely, which the random compositions already try.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from diff_es.errors import InputError
from diff_es.schedule import Levels, ScheduleSpace

logger = logging.getLogger(__name__)

StartKind: TypeAlias = Literal["uniform", "front", "back", "middle", "ends", "ramp_up", "ramp_down", "zigzag", "random"]
START_KINDS: tuple[StartKind, ...] = get_args(StartKind)

#: Random compositions that repeat an earlier start are drawn again at most this often in a row.
_MAX_REDRAWS = 20

#: Profile of each pattern over (stage, position), with position = stage / (n − 1) in [0, 1]: 0 is the low-noise end.
_PATTERNS: dict[str, Callable[[int, float], float]] = {
    "front": lambda _, position: 1.0 if position < 0.5 else -1.0,
    "back": lambda _, position: 1.0 if position > 0.5 else -1.0,
    "middle": lambda _, position: 1.0 if abs(position - 0.5) <= 0.25 else -1.0,
    "ends": lambda _, position: -1.0 if abs(position - 0.5) <= 0.25 else 1.0,
    "ramp_up": lambda _, position: 2 * position - 1,
    "ramp_down": lambda _, position: 1 - 2 * position,
    "zigzag": lambda stage, _: 1.0 if stage % 2 == 0 else -1.0,
}


def start_population(
    space: ScheduleSpace, kinds: Sequence[StartKind], size: int, seed: int, given: Sequence[Levels] = ()
) -> list[Levels]:
    """Return the different schedules that a search starts from, in order: given, uniform, patterns, random.

    Every one is projected to the budget; those that fall together are kept once.

    Args:
        space: The budget and the bounds.
        kinds: Which kinds to use; "random" fills up to `size` with random compositions.
        size: Wanted number of schedules. Given ones and patterns are all kept even if they are more.
        seed: Seed of the random compositions; start k is drawn from (seed, 0, k).
        given: Schedules of the user, one level per stage.

    Raises:
        InputError: a given schedule has another number of stages, or no start is left.
    """
    population = dict.fromkeys(_given(space, given))
    population.update(dict.fromkeys(_patterned(space, kind) for kind in kinds if kind != "random"))
    if "random" in kinds:
        while len(population) < size and (fresh := _random(space, population, seed)) is not None:
            population[fresh] = None
    if not population:
        raise InputError("The search has no start: name kinds of starts or give at least one schedule.")
    return list(population)


def _given(space: ScheduleSpace, given: Sequence[Levels]) -> Iterator[Levels]:
    for levels in given:
        if len(levels) != space.num_stages or any(level != int(level) for level in levels):
            raise InputError(f"starts: {levels} must hold one whole level for each of {space.num_stages} stages.")
        whole = tuple(int(level) for level in levels)
        projected = whole if space.contains(whole) else space.project(whole)
        if projected != whole:
            logger.info("Start %s does not meet the budget; the search starts from %s instead.", whole, projected)
        yield projected


def _patterned(space: ScheduleSpace, kind: StartKind) -> Levels:
    if kind == "uniform":
        return space.uniform()
    level = space.sparsity * space.num_levels
    swing = min(level, space.num_levels - level) / 2
    last = max(space.num_stages - 1, 1)
    return space.project([level + swing * _PATTERNS[kind](stage, stage / last) for stage in range(space.num_stages)])


def _random(space: ScheduleSpace, known: dict[Levels, None], seed: int) -> Levels | None:
    """Draw a composition that is not known yet; None where none turns up (the space may hold only a few)."""
    rng = np.random.default_rng([seed, 0, len(known)])
    return draw_unseen(lambda: random_composition(space, rng), _MAX_REDRAWS, known)


def draw_unseen(draw: Callable[[], Levels | None], tries: int, *seen: Container[Levels]) -> Levels | None:
    """Draw until something turns up that was not seen before; None where that takes more tries.

    Args:
        draw: Draws a schedule, or None where there is none.
        tries: Draws at most.
        seen: Schedules to avoid.
    """
    for _ in range(tries):
        levels = draw()
        if levels is not None and not any(levels in known for known in seen):
            return levels
    return None


def random_composition(space: ScheduleSpace, rng: np.random.Generator) -> Levels:
    """Draw each level uniformly between its bounds and project the result to the budget."""
    return space.project([float(cap) * rng.random() for cap in space.max_levels])
