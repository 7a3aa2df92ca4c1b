"""The router alone: what it keeps in memory, and what it refuses."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import product

import pytest
import torch
from diffusers import DiTPipeline
from torch import Tensor, nn

from diff_es.bank import Bank
from diff_es.denoisers import Layer
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.routing import Router, apply_, install_, is_routed, remove_, routed
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from diff_es.stages import StagePlan
from support import METHODS, REQUESTS, SAMPLER, call_at, mixed_levels, timestep_in, tiny_bank, tiny_pipe

every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def schedule(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


def thin_parameters(pipe: DiTPipeline, dense: set[int]) -> list[weakref.ref[nn.Parameter]]:
    """The attached parameters that are not the dense model's."""
    return [weakref.ref(p) for p in pipe.transformer.parameters() if id(p) not in dense]


@pytest.mark.parametrize("method", METHODS[:-1])
def test_gather_holds_the_running_stage_only(pipe: DiTPipeline, bank: Bank) -> None:
    dense = {id(parameter) for parameter in pipe.transformer.parameters()}
    schedule = bank.uniform_allocation().resolve((1, 2, 3))
    earlier: list[weakref.ref[nn.Parameter]] = []
    with routed(pipe, bank, schedule, mode="gather"):
        assert not thin_parameters(pipe, dense), "weights were cut before a stage ran"
        for stage in (2, 0, 1, 0, 2):
            pipe.transformer(**call_at(timestep_in(stage)))
            now = thin_parameters(pipe, dense)
            assert len(now) >= 9 * len(bank.layers) / 2
            assert not any(ref() is not None for ref in earlier), "thin weights of an earlier stage are alive"
            earlier = now
    assert not any(ref() is not None for ref in earlier)


def test_resident_holds_every_stage(pipe: DiTPipeline, bank: Bank) -> None:
    dense = {id(parameter) for parameter in pipe.transformer.parameters()}
    with routed(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3))):
        first = {}
        for stage in (2, 0, 1):
            pipe.transformer(**call_at(timestep_in(stage)))
            first[stage] = thin_parameters(pipe, dense)
        for stage, refs in first.items():
            pipe.transformer(**call_at(timestep_in(stage)))
            assert [ref() for ref in refs] == [ref() for ref in thin_parameters(pipe, dense)]
    assert not any(ref() is not None for refs in first.values() for ref in refs), "leaving freed nothing"


class CountingSource:
    """A bank that counts what is asked of it."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.asked: list[tuple[int, str, int]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.bank, name)

    def thin(self, stage: int, layer: Layer, level: int) -> object:
        self.asked.append((stage, layer.name, level))
        return self.bank.thin(stage, layer, level)


def run_all(pipe: DiTPipeline, source: object, cache_bytes: int, candidates: list[tuple[int, ...]]) -> list[Tensor]:
    """Route by one schedule after another with one router, as a search does."""
    router = Router(pipe.transformer, source, cache_bytes=cache_bytes)
    allocation = source.uniform_allocation()
    images = []
    for levels in candidates:
        router.set_schedule(allocation.resolve(levels))
        install_(pipe.transformer, router)
        images.append(sample(pipe, REQUESTS, SAMPLER))
        remove_(pipe)
    return images


@every_method
def test_the_cache_never_changes_results(pipe: DiTPipeline, bank: Bank) -> None:
    candidates = [(1, 2, 3), (2, 2, 2), (1, 2, 3), (4, 0, 2), (2, 2, 2)]
    fresh = []
    for levels in candidates:
        with routed(pipe, bank, bank.uniform_allocation().resolve(levels)):
            fresh.append(sample(pipe, REQUESTS, SAMPLER))
    for cache_bytes in (0, 3000, 2**30):
        images = run_all(pipe, CountingSource(bank), cache_bytes, candidates)
        assert all(torch.equal(image, expected) for image, expected in zip(images, fresh, strict=True))


def test_a_large_cache_asks_once_a_small_one_again(pipe: DiTPipeline, bank: Bank) -> None:
    candidates = [(1, 2, 3), (2, 2, 2), (1, 2, 3)]
    large, none = CountingSource(bank), CountingSource(bank)
    run_all(pipe, large, 2**30, candidates)
    run_all(pipe, none, 0, candidates)
    layers = len(bank.layers)
    assert len(large.asked) == len(set(large.asked)) == 5 * layers
    # Stage 1 stays at level 2 throughout: it is part of each present schedule, and never dropped.
    assert len(none.asked) == 7 * layers


def test_the_limit_is_for_layers_beyond_the_present_schedule(pipe: DiTPipeline, bank: Bank) -> None:
    """A limit that holds one stage keeps one stage, however much the present schedule takes."""
    source = CountingSource(bank)
    with routed(pipe, bank, bank.uniform_allocation().resolve((0, 0, 1))):
        pipe.transformer(**call_at(timestep_in(2)))
        one_stage = sum(p.numel() * 4 for p in pipe.transformer.parameters() if not p.requires_grad)
    router = Router(pipe.transformer, source, cache_bytes=one_stage)
    for levels in ((1, 1, 1), (1, 1, 2), (1, 1, 1)):
        router.set_schedule(bank.uniform_allocation().resolve(levels))
    assert len(source.asked) == 4 * len(bank.layers)


def test_a_new_schedule_may_be_set_while_routed(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    other = bank.uniform_allocation().resolve((3, 1, 2))
    with routed(pipe, bank, other):
        expected = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule) as router:
        sample(pipe, REQUESTS, SAMPLER)
        router.set_schedule(other)
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)


@every_method
def test_routing_twice_is_refused(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    apply_(pipe, bank, schedule)
    pruned = sample(pipe, REQUESTS, SAMPLER)
    with pytest.raises(UnsupportedModelError, match=r"is routed.*remove_\(pipe\)"):
        apply_(pipe, bank, schedule)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned)
    remove_(pipe)
    with pytest.raises(UnsupportedModelError, match="nothing to remove"):
        remove_(pipe)


def test_schedules_of_another_bank_are_refused(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    layers = bank.layers
    row = (1,) * len(layers)
    strangers = {
        "other layers": PruningSchedule((1, 1, 1), ("a", *layers[1:]), (row,) * 3, bank.num_levels),
        "2 stages, the weights 3": PruningSchedule((1, 1), layers, (row,) * 2, bank.num_levels),
        "H=8 levels, the weights H=4": PruningSchedule((1, 1, 1), layers, (row,) * 3, 8),
    }
    for message, stranger in strangers.items():
        with pytest.raises(InputError, match=message):
            apply_(pipe, bank, stranger)
        assert not is_routed(pipe)
    with routed(pipe, bank, schedule) as router:
        pruned = sample(pipe, REQUESTS, SAMPLER)
        for stranger in strangers.values():
            with pytest.raises(InputError):
                router.set_schedule(stranger)
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned), "a refused schedule left traces"


def test_another_model_is_refused_naming_both(bank: Bank, schedule: PruningSchedule) -> None:
    stranger = tiny_pipe(seed=1)
    with pytest.raises(UnsupportedModelError, match="another model") as caught:
        apply_(stranger, bank, schedule)
    message = str(caught.value)
    assert bank.fingerprint.describe() in message
    assert "dtype=" not in message
    stranger_bank = tiny_bank(stranger, "magnitude")
    assert stranger_bank.fingerprint.describe() in message
    assert not is_routed(stranger)


def test_the_model_in_another_dtype_is_refused_with_the_way_out(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    pipe.to(torch.float16)
    with pytest.raises(UnsupportedModelError, match=r"made for.*float32.*given.*float16.*dtype=float32"):
        apply_(pipe, bank, schedule)


def test_half_precision_timesteps_stay_in_their_stage(pipe: DiTPipeline, bank: Bank) -> None:
    """bfloat16 rounds 830 to 832 and 498 to 498: every step of a fine plan still finds its own stage."""
    timesteps = tuple(float(999 - 20 * k) for k in range(50))
    plan = StagePlan.split(timesteps, 25)
    fine = Bank(replace(bank.info, plan=plan), tuple(bank.shards[k % 3] for k in range(25)))
    levels = tuple(k % 3 for k in range(25))
    with routed(pipe, fine, fine.uniform_allocation().resolve(levels)) as router:
        for (t, stage), dtype in product(
            zip(timesteps, plan.stage_of_step, strict=True), (torch.int64, torch.float32, torch.bfloat16)
        ):
            router.on_call((), {"timestep": torch.full((2,), t, dtype=dtype)})
            assert router.stage == stage
