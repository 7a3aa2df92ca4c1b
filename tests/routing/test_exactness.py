"""The routed pipeline computes what it should: dense at level 0, masked, physically pruned; then dense again."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTPipeline
from torch import nn

from diff_es.bank import Bank
from diff_es.routing import Mode, apply_, is_routed, remove_, routed
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from routing_oracles import dispatched, masked_model
from support import METHODS, PLAN, REQUESTS, SAMPLER, call_at, mixed_levels, same_state, snapshot, timestep_in

MODES: tuple[Mode, ...] = ("resident", "stream", "gather")
every_method = pytest.mark.parametrize("method", METHODS)
every_mode = pytest.mark.parametrize("mode", MODES)
both_activations = pytest.mark.parametrize("activation", ["gelu-approximate", "geglu"])


def schedule_of(bank: Bank, *levels: int) -> PruningSchedule:
    return bank.uniform_allocation().resolve(levels or mixed_levels(bank))


@every_mode
@every_method
def test_level_0_everywhere_is_bitwise_dense(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    dense = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule_of(bank, 0, 0, 0), mode=mode):
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)


@both_activations
@every_method
def test_pruning_changes_the_image(pipe: DiTPipeline, bank: Bank) -> None:
    """Else the tests around this one would compare dense with dense."""
    dense = sample(pipe, REQUESTS, SAMPLER)
    for levels in ((2, 0, 0), (0, 0, 4), (2, 2, 2)):
        with routed(pipe, bank, schedule_of(bank, *levels)):
            assert not torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)


@every_mode
@every_method
def test_leaving_restores_the_very_same_tensors(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    before, dense = snapshot(pipe.transformer), sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule_of(bank), mode=mode):
        assert is_routed(pipe)
        sample(pipe, REQUESTS, SAMPLER)
        assert not same_state(pipe.transformer, before)
    assert same_state(pipe.transformer, before)
    assert not is_routed(pipe)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)
    apply_(pipe, bank, schedule_of(bank), mode=mode)
    sample(pipe, REQUESTS, SAMPLER)
    remove_(pipe)
    assert same_state(pipe.transformer, before)


@every_mode
@every_method
def test_an_exception_inside_the_pipeline_restores_too(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    calls = 0

    def fail(_module: nn.Module, _args: object, _output: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # in the middle of the second stage
            raise RuntimeError("power cut")

    handle = pipe.transformer.transformer_blocks[0].norm1.register_forward_hook(fail)
    if bank.depth:  # the dropped block would never call its norm
        handle.remove()
        handle = pipe.transformer.proj_out_2.register_forward_hook(fail)
    before = snapshot(pipe.transformer)
    with pytest.raises(RuntimeError, match="power cut"), routed(pipe, bank, schedule_of(bank, 2, 2, 2), mode=mode):
        sample(pipe, REQUESTS, SAMPLER)
    assert same_state(pipe.transformer, before)


@both_activations
@every_method
@pytest.mark.parametrize("stage", range(PLAN.num_stages))
def test_sliced_equals_masked_in_float64(pipe: DiTPipeline, bank: Bank, stage: int) -> None:
    """Levels 1 … H (all heads and channels gone) of every layer at once, to rounding of float64."""
    schedules = [schedule_of(bank, *(level,) * PLAN.num_stages) for level in range(1, bank.num_levels + 1)]
    call = call_at(timestep_in(stage), dtype=torch.float64)
    references = []
    for schedule in schedules:
        reference = masked_model(pipe.transformer, bank, stage, schedule).double()
        references.append(reference(**call).sample)
    for schedule, reference in zip(schedules, references, strict=True):
        with routed(pipe, bank, schedule):
            pipe.transformer.double()
            out = pipe.transformer(**call).sample
            pipe.transformer.float()
        assert (out - reference).abs().max() <= 1e-10 * reference.abs().max()


@both_activations
@every_mode
@every_method
def test_the_routed_pipeline_equals_physically_pruned_models(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    for levels in (mixed_levels(bank), (0, bank.num_levels, 1)):
        schedule = schedule_of(bank, *levels)
        with dispatched(pipe.transformer, bank, schedule):
            expected = sample(pipe, REQUESTS, SAMPLER)
        with routed(pipe, bank, schedule, mode=mode):
            assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
            assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected), "a second run differs"


@every_mode
@every_method
def test_layer_levels_may_differ_within_a_stage(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    top = bank.num_levels
    mixed = ((0, top), (top, 0), (0, 0)) if bank.depth else ((1, 2, 0, 3), (top, 0, 0, top), (0, top, top, 1))
    schedule = PruningSchedule((0, 1, 2), bank.layers, mixed, top)
    with dispatched(pipe.transformer, bank, schedule):
        expected = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule, mode=mode):
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)


@both_activations
@pytest.mark.parametrize("method", METHODS[:-1])
def test_layers_without_groups_give_their_bias_bitwise(pipe: DiTPipeline, bank: Bank) -> None:
    """Level H: no heads and no channels, in the model's own dtype."""
    schedule = schedule_of(bank, *(bank.num_levels,) * PLAN.num_stages)
    call = call_at(timestep_in(1))
    reference = masked_model(pipe.transformer, bank, 1, schedule)(**call).sample
    with routed(pipe, bank, schedule):
        assert torch.equal(pipe.transformer(**call).sample, reference)
        assert pipe.transformer.transformer_blocks[0].ff.net[2].in_features == 0
        assert pipe.transformer.transformer_blocks[0].attn1.heads == 0


@every_method
def test_all_modes_give_the_same_bits(pipe: DiTPipeline, bank: Bank) -> None:
    images = []
    for mode in MODES:
        with routed(pipe, bank, schedule_of(bank), mode=mode):
            images.append(sample(pipe, REQUESTS, SAMPLER))
    assert all(torch.equal(images[0], other) for other in images[1:])


@pytest.mark.parametrize("method", METHODS[:-1])
def test_a_stream_without_room_for_two_stages_gives_the_same_bits(pipe: DiTPipeline, bank: Bank) -> None:
    """A part of the next stage's weights is then copied at the switch, over those of the stage that ends."""
    schedule = schedule_of(bank, 0, 1, 0)
    with routed(pipe, bank, schedule, mode="resident"):
        expected = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule, mode="stream") as router:
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected), "a second run differs"
        arena = router._residence._arena
        assert arena._overlap(2, 1) > 0, "there was room"
        assert arena._overlap(1, 0) > 0, "there was room"


def test_a_step_between_two_borders_goes_to_its_stage(pipe: DiTPipeline, bank: Bank) -> None:
    """Another number of steps than the plan's: placed by the borders."""
    with routed(pipe, bank, schedule_of(bank)) as router:
        seen = []
        pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(router.stage))
        sample(pipe, REQUESTS, type(SAMPLER)(num_inference_steps=9))
    timesteps = [888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert pipe.scheduler.timesteps.tolist() == timesteps
    assert seen == [0 if t < 249 else 1 if t < 581 else 2 for t in timesteps]
