"""Contestants share the device's memory: what is not needed does not stay, and nothing measured depends on that."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.bank import Bank
from diff_es.errors import InputError
from diff_es.evaluation import Cost
from diff_es.evaluation.cost import count_run
from diff_es.routing import Mode, Router
from diff_es.routing.sizes import weight_bytes
from diff_es.run.measure import Bench, Contestant
from diff_es.run.turns import plan_turns
from diff_es.stages import StagePlan
from support import PLAN, REQUESTS, SAMPLER, same_state, snapshot, tiny_bank, tiny_pipe

DENSE = Contestant("dense", "")
LEVELS = {"first": (4, 2, 1), "second": (1, 1, 1), "third": (2, 0, 3)}


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def bank(pipe: DiTPipeline) -> Bank:
    return tiny_bank(pipe, "obs")


@pytest.fixture(scope="module")
def contestants(bank: Bank) -> tuple[Contestant, ...]:
    allocation = bank.uniform_allocation()
    return tuple(Contestant(name, "", allocation.resolve(levels), bank) for name, levels in LEVELS.items())


@pytest.fixture
def routers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many routers there are whenever one is given its schedule, itself counted."""
    gc.collect()
    before = {id(item) for item in gc.get_objects() if type(item) is Router}
    counted: list[int] = []
    set_schedule = Router.set_schedule

    def counting(self: Router, schedule: object) -> None:
        set_schedule(self, schedule)
        counted.append(sum(type(item) is Router and id(item) not in before for item in gc.get_objects()))

    monkeypatch.setattr(Router, "set_schedule", counting)
    yield counted
    left = [item for item in gc.get_objects() if type(item) is Router and id(item) not in before]
    assert left == [], "a contestant is still there"


def needs(pipe: DiTPipeline, contestants: tuple[Contestant, ...]) -> list[Mapping[Mode, int]]:
    return [weight_bytes(pipe.transformer, entry.bank, entry.schedule) for entry in contestants]


def room_for(taken: int) -> int:
    """The least limit of which so many bytes leave a quarter."""
    return -(-4 * taken // 3)


def limits(pipe: DiTPipeline, contestants: tuple[Contestant, ...]) -> dict[str, int]:
    """What is needed by all at once, by the largest alone, and by its largest stage."""
    each = needs(pipe, contestants)
    dense = sum(parameter.nbytes for parameter in pipe.transformer.parameters())
    together = dense + sum(own["resident"] - dense for own in each)
    alone, stage = (max(own[mode] for own in each) for mode in ("resident", "gather"))
    return {"together": room_for(together), "alone": room_for(alone), "stage": room_for(stage)}


def test_images_leave_nothing_behind(
    pipe: DiTPipeline, contestants: tuple[Contestant, ...], routers: list[int], tmp_path: Path
) -> None:
    bench = Bench(pipe, SAMPLER, None)
    made = [bench.sample(entry, REQUESTS, tmp_path / entry.name, 2).tensor("latents") for entry in contestants]
    assert routers == [1, 1, 1]
    again = [bench.sample(entry, REQUESTS, tmp_path / entry.name, 2).tensor("latents") for entry in contestants]
    assert routers == [1, 1, 1], "images that are there need no weights"
    assert all(map(torch.equal, made, again))


def test_files_of_one_contestant_share_its_weights_and_the_next_one_finds_them_gone(
    pipe: DiTPipeline, contestants: tuple[Contestant, ...], routers: list[int], tmp_path: Path
) -> None:
    bench = Bench(pipe, SAMPLER, None)
    for entry in contestants:
        for name in ("a", "b"):
            folder = tmp_path / f"{entry.name}-{name}"
            assert bench.missing_files(entry, REQUESTS, folder) == [0]
            bench.sample_file(entry, REQUESTS, folder, 2, 0)
    assert routers == [1, 1, 1]
    del bench


def test_the_mode_is_the_fastest_in_which_the_largest_fits(
    pipe: DiTPipeline, contestants: tuple[Contestant, ...]
) -> None:
    pruned = [(entry.bank, entry.schedule) for entry in contestants]
    least = limits(pipe, contestants)
    expected = {
        None: ("resident", True),
        least["together"]: ("resident", True),
        least["together"] - 2: ("resident", False),
        least["alone"]: ("resident", False),
        least["alone"] - 2: ("gather", False),
        least["stage"] - 2: ("gather", False),
    }
    for limit, (mode, together) in expected.items():
        turns = plan_turns(pipe, pruned, limit)
        assert (turns.mode, turns.together, "cut anew" in turns.why) == (mode, together, not together), limit
    with pytest.raises(InputError, match="1000 bytes"):
        plan_turns(pipe, pruned, 1000)
    assert (plan_turns(pipe, [], 1000).mode, plan_turns(pipe, [], 1000).together) == ("resident", True)


@pytest.mark.parametrize(("limit", "mode"), [("alone", "resident"), ("stage", "gather")])
def test_costs_are_the_same_where_not_all_fit_at_once(
    pipe: DiTPipeline, contestants: tuple[Contestant, ...], routers: list[int], limit: str, mode: Mode
) -> None:
    before, entries = snapshot(pipe.transformer), (DENSE, *contestants)
    plans = {entry.name: PLAN for entry in entries}
    free = Bench(pipe, SAMPLER, None).costs(entries, plans, (1,), 1, scopes=("pipeline",))
    assert routers == [1, 2, 3], "cut once"
    routers.clear()
    bench = Bench(pipe, SAMPLER, None, memory_limit=limits(pipe, contestants)[limit])
    tight = bench.costs(entries, plans, (1,), 1, scopes=("pipeline",))
    assert set(routers) == {1}
    assert same_state(pipe.transformer, before)
    for name, cost in tight.items():
        assert counted(cost) == counted(free[name])
        assert len(cost.latency) == 1
        assert (cost.latency_mode, free[name].latency_mode) == ((None, None) if name == "dense" else (mode, "resident"))


def test_the_dense_model_is_counted_once(
    pipe: DiTPipeline, contestants: tuple[Contestant, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all rows of the same stages; rows of other stages need it once more, for theirs."""
    counts: list[StagePlan] = []

    def noted(pipe: object, plan: StagePlan, sampler: object) -> object:
        counts.append(plan)
        return count_run(pipe, plan, sampler)

    monkeypatch.setattr("diff_es.evaluation.cost.count_run", noted)
    entries = (DENSE, *contestants)
    plans = {entry.name: PLAN for entry in entries}
    costs = Bench(pipe, SAMPLER, None).costs(entries, plans, (), 1)
    assert list(costs) == list(plans) and len(counts) == 1 + len(contestants)
    counts.clear()
    two = StagePlan.split(PLAN.timesteps, 2)
    other = Bench(pipe, SAMPLER, None).costs(entries, {**plans, "second": two}, (), 1)
    assert len(counts) == 2 + len(contestants) and counts.count(two) == 2
    assert list(other) == list(plans)
    assert [cost.macs for cost in other.values()] == [cost.macs for cost in costs.values()]
    assert len(other["second"].parameters_per_stage) == 2


def counted(cost: Cost) -> Cost:
    return replace(cost, latency=(), latency_mode=None)


def test_what_is_not_timed_was_timed_in_no_mode(pipe: DiTPipeline, contestants: tuple[Contestant, ...]) -> None:
    entries = (DENSE, contestants[0])
    costs = Bench(pipe, SAMPLER, None).costs(entries, {entry.name: PLAN for entry in entries}, (), 1)
    assert [cost.latency_mode for cost in costs.values()] == [None, None]


@pytest.mark.parametrize("limit", ["alone", "stage"])
def test_images_are_the_same_in_every_mode(
    pipe: DiTPipeline, contestants: tuple[Contestant, ...], tmp_path: Path, limit: str
) -> None:
    largest = contestants[1:2]
    tight = Bench(pipe, SAMPLER, None, memory_limit=limits(pipe, largest)[limit])
    benches = {"free": Bench(pipe, SAMPLER, None), "tight": tight}
    free, other = (bench.sample(largest[0], REQUESTS, tmp_path / name, 2) for name, bench in benches.items())
    assert torch.equal(free.tensor("latents"), other.tensor("latents"))
