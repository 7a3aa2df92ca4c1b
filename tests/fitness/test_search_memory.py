"""The memory mode of a search: no score depends on it, and it holds for every schedule that the search may meet."""

from __future__ import annotations

import copy
from functools import cache
from itertools import product

import pytest
from diffusers import DiTPipeline

from diff_es.bank import Bank
from diff_es.errors import InputError
from diff_es.fitness import TrajectoryFitness, kept_bytes, plan_search
from diff_es.fitness.memory import KeptBytes
from diff_es.routing import Mode, ModePlan, choose_mode
from diff_es.routing.sizes import weight_bytes
from diff_es.sampling import Requests
from support import SAMPLER, tiny_bank, tiny_pipe

PROBES = Requests.cycle(range(10), 3, 200)
MODES: tuple[Mode, ...] = ("resident", "gather", "stream")


@cache
def _dense() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture
def pipe() -> DiTPipeline:
    return copy.deepcopy(_dense())


@pytest.fixture(scope="module")
def bank() -> Bank:
    return tiny_bank(_dense(), "obs")


def fitness_in(mode: Mode, pipe: DiTPipeline, bank: Bank) -> TrajectoryFitness:
    return TrajectoryFitness(
        pipe, bank, PROBES, bank.uniform_allocation(), sampler=SAMPLER, batch_size=2, mode=mode, cache_bytes=0
    )


@pytest.mark.parametrize("mode", ["gather", "stream"])
def test_every_mode_gives_the_same_scores(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    """Schedules that share stages with earlier ones, that leave stages dense, and that come back."""
    resident, other = fitness_in("resident", copy.deepcopy(pipe), bank), fitness_in(mode, pipe, bank)
    for levels in ((2, 2, 2), (0, 3, 3), (4, 0, 2), (2, 2, 2), (1, 4, 1)):
        assert other(levels) == resident(levels)
        assert other._router.mode == mode


def test_nothing_limits_a_search_on_a_cpu(pipe: DiTPipeline, bank: Bank) -> None:
    plan = plan_search(pipe, bank, bank.uniform_allocation(), bank.space(0.5))
    assert (plan.mode, plan.limit) == ("resident", None)
    assert plan.why == "resident: its weights take up to 0.00 GiB, and nothing limits them."


def test_the_plan_bounds_every_schedule_of_the_search(pipe: DiTPipeline, bank: Bank) -> None:
    """With the stages of equal length each schedule of the space removes as much as the uniform one."""
    allocation, space = bank.uniform_allocation(), bank.space(0.5)
    schedules = [levels for levels in product(range(5), repeat=3) if space.contains(levels)]
    taken = [weight_bytes(pipe.transformer, bank, allocation.resolve(levels)) for levels in schedules]
    plan = plan_search(pipe, bank, allocation, space)
    assert len(schedules) > 10
    for mode in MODES:
        assert max(own[mode] for own in taken) <= plan.weight_bytes[mode]
    usual = choose_mode(pipe, bank, allocation.resolve(space.uniform())).weight_bytes
    assert plan.weight_bytes["gather"] > usual["gather"], "some stage may be pruned less than the uniform ones"


def test_a_search_that_does_not_fit_with_all_stages_gathers(pipe: DiTPipeline, bank: Bank) -> None:
    allocation, space = bank.uniform_allocation(), bank.space(0.5)
    needed = plan_search(pipe, bank, allocation, space).weight_bytes
    roomy = plan_search(pipe, bank, allocation, space, needed["resident"] * 4 // 3 + 1)
    tight = plan_search(pipe, bank, allocation, space, needed["resident"])
    assert (roomy.mode, tight.mode) == ("resident", "gather")
    assert "resident would take" in tight.why


def test_a_search_that_fits_in_no_mode_is_refused(pipe: DiTPipeline, bank: Bank) -> None:
    allocation, space = bank.uniform_allocation(), bank.space(0.5)
    with pytest.raises(InputError, match=r"memory_limit=1000 bytes.*at least"):
        plan_search(pipe, bank, allocation, space, 1000)
    usual = choose_mode(pipe, bank, allocation.resolve(space.uniform())).weight_bytes
    with pytest.raises(InputError, match=r"at least .* GiB \(mode 'gather'\).*smaller dtype"):
        plan_search(pipe, bank, allocation, space, usual["gather"])


@pytest.mark.parametrize(("limit", "each"), [(None, 2 * 2**30), (140, 10), (100, 0)])
def test_what_is_kept_for_later_candidates_shares_what_is_left(limit: int | None, each: int) -> None:
    needed: dict[Mode, int] = {"resident": 100, "gather": 100}
    assert kept_bytes(ModePlan("resident", needed, limit, "")) == KeptBytes(each, each)
    assert kept_bytes(ModePlan("gather", needed, limit, "")) == KeptBytes(each, 0)
