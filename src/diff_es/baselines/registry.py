"""Every search algorithm by name, all behind one interface, so that a recipe or a table can name any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from diff_es.baselines.config import BaselineConfig
from diff_es.baselines.greedy import greedy
from diff_es.baselines.hill_climb import hill_climb
from diff_es.baselines.proposals import Proposals, ProposalSearch
from diff_es.baselines.random_search import random_search
from diff_es.baselines.stagewise_dp import stagewise_dp
from diff_es.baselines.three_stage import three_stage
from diff_es.errors import InputError
from diff_es.registry import Registry
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search import EvolutionarySearch, EvolutionConfig, JournalHeader, ScheduleSearch
from diff_es.stages import StagePlan

#: Settings of a search: the evolution has its own, all others share one kind.
SearchSettings: TypeAlias = EvolutionConfig | BaselineConfig

#: Makes a search. Takes the space, the stages and the settings that `settings_for` returns.
Algorithm: TypeAlias = Callable[[ScheduleSpace, StagePlan, SearchSettings], ScheduleSearch]

#: Search algorithms by name; add your own with `algorithms.register(name, factory)`.
algorithms: Registry[Algorithm] = Registry("search algorithm")

EVOLUTION = "evolution"


def settings_for(name: str, space: ScheduleSpace, evolution: EvolutionConfig) -> SearchSettings:
    """Return the settings with which an algorithm evaluates as many schedules as the evolution would at most.

    Args:
        name: Name of the algorithm.
        space: The schedules to search in.
        evolution: Settings of the evolutionary search to compare with.

    Raises:
        InputError: no such algorithm, or racing for another one than the evolution.
    """
    if evolution.racing is not None and name != EVOLUTION:
        raise InputError(f"racing: {name} scores every schedule on all probes; only {EVOLUTION} can race.")
    algorithms[name]  # an unknown name is an error here, not only where the search is made
    return evolution if name == EVOLUTION else BaselineConfig.matching(space, evolution)


def journal_header(
    name: str,
    fingerprint: str,
    space: ScheduleSpace,
    settings: SearchSettings,
    fitness: Mapping[str, Any] | None = None,
) -> JournalHeader:
    """Return the header of a search's journal.

    Args:
        name: Name of the algorithm.
        fingerprint: What is behind the fitness, as `JournalHeader` wants it.
        space: The searched space.
        settings: Settings of the algorithm.
        fitness: What else is behind the fitness, by name.
    """
    return JournalHeader(
        fingerprint, space, settings, algorithm="" if name == EVOLUTION else name, fitness=fitness or {}
    )


def _evolution(space: ScheduleSpace, _: StagePlan, settings: SearchSettings) -> ScheduleSearch:
    if not isinstance(settings, EvolutionConfig):
        raise InputError(f"settings={settings}: evolution takes an EvolutionConfig (see settings_for).")
    return EvolutionarySearch(space, settings)


def _baseline(name: str, propose: Callable[[ScheduleSpace, BaselineConfig], Proposals]) -> None:
    """Register a search that is written as a generator."""

    def make(space: ScheduleSpace, _: StagePlan, settings: SearchSettings) -> ScheduleSearch:
        return ProposalSearch(space, propose(space, _checked(name, settings)), _checked(name, settings))

    algorithms.register(name, make)


def _fixed(name: str, choose: Callable[[ScheduleSpace, StagePlan], Levels]) -> None:
    """Register a rule that needs no search: one schedule, evaluated once."""

    def make(space: ScheduleSpace, plan: StagePlan, settings: SearchSettings) -> ScheduleSearch:
        config = replace(_checked(name, settings), evaluations=1)
        return ProposalSearch(space, _only(choose(space, plan)), config)

    algorithms.register(name, make)


def _only(levels: Levels) -> Proposals:
    yield [levels]


def _checked(name: str, settings: SearchSettings) -> BaselineConfig:
    if not isinstance(settings, BaselineConfig):
        raise InputError(f"settings={settings}: {name} takes a BaselineConfig (see settings_for).")
    return settings


algorithms.register(EVOLUTION, _evolution)
_baseline("random", random_search)
_baseline("greedy", greedy)
_baseline("hill-climb", hill_climb)
_baseline("stagewise-dp", stagewise_dp)
_fixed("uniform", lambda space, _: space.uniform())
_fixed("three-stage", lambda space, plan: three_stage(plan, space))
