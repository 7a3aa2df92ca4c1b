"""A routed pipeline lives on: it is copied, moved, offloaded and saved like any other."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from accelerate.hooks import remove_hook_from_module
from diffusers import DiTPipeline, DiTTransformer2DModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from diff_es.bank import Bank
from diff_es.denoisers import fingerprint
from diff_es.errors import UnsupportedModelError
from diff_es.routing import Mode, apply_, is_routed, remove_, routed
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from routing_oracles import pruned_model
from support import METHODS, PLAN, REQUESTS, SAMPLER, call_at, mixed_levels, same_state, snapshot, timestep_in

every_method = pytest.mark.parametrize("method", METHODS)
every_mode = pytest.mark.parametrize("mode", ["resident", "stream", "gather"])
STAGES = range(PLAN.num_stages)


@pytest.fixture
def schedule(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


@every_mode
@every_method
def test_copies_of_a_routed_pipeline_are_independent(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode
) -> None:
    dense = sample(pipe, REQUESTS, SAMPLER)
    apply_(pipe, bank, schedule, mode=mode)
    pruned = sample(pipe, REQUESTS, SAMPLER)
    first, second = copy.deepcopy(pipe), copy.deepcopy(pipe)
    originals = {id(parameter) for parameter in pipe.transformer.parameters()}
    assert not originals & {id(parameter) for parameter in first.transformer.parameters()}
    assert torch.equal(sample(first, REQUESTS, SAMPLER), pruned)
    remove_(first)
    assert torch.equal(sample(first, REQUESTS, SAMPLER), dense)
    assert is_routed(pipe)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned)
    remove_(pipe)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)
    assert is_routed(second)
    assert torch.equal(sample(second, REQUESTS, SAMPLER), pruned)
    remove_(second)
    assert torch.equal(sample(second, REQUESTS, SAMPLER), dense)


def test_a_routed_denoiser_cannot_be_pickled_and_says_what_can(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, tmp_path: Path
) -> None:
    with routed(pipe, bank, schedule):
        with pytest.raises(UnsupportedModelError, match=r"diff_es\.save.*remove_\(pipe\)"):
            pickle.dumps(pipe.transformer)
        with pytest.raises(UnsupportedModelError, match=r"diff_es\.save.*remove_\(pipe\)"):
            torch.save(pipe.transformer, tmp_path / "model.pt")
    twin = pickle.loads(pickle.dumps(pipe.transformer))
    assert all(map(torch.equal, twin.parameters(), pipe.transformer.parameters()))


@pytest.mark.parametrize("levels", [(2, 2, 2), (1, 2, 3)])
def test_what_changes_attention_after_routing_is_refused_too(
    pipe: DiTPipeline, bank: Bank, levels: tuple[int, ...]
) -> None:
    """With equal levels nothing else would tell: the shapes fit, and the images are others."""
    apply_(pipe, bank, bank.uniform_allocation().resolve(levels))
    expected = sample(pipe, REQUESTS, SAMPLER)
    attention = pipe.transformer.transformer_blocks[1].attn1
    attention.fused_projections = True
    with pytest.raises(UnsupportedModelError, match=r"transformer_blocks\.1\.attn1 has fused q, k, v"):
        sample(pipe, REQUESTS, SAMPLER)
    attention.fused_projections = False
    own = attention.processor
    attention.set_processor(IPAdapterAttnProcessor2_0(16, 16))
    with pytest.raises(UnsupportedModelError, match=r"transformer_blocks\.1\.attn1 has an IP-Adapter"):
        sample(pipe, REQUESTS, SAMPLER)
    attention.set_processor(own)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)


def test_a_copy_routes_its_own_weights(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    """Changing the copy's weights changes nothing in the original, routed or dense."""
    apply_(pipe, bank, schedule)
    pruned = sample(pipe, REQUESTS, SAMPLER)
    twin = copy.deepcopy(pipe)
    for stage in (None, *STAGES):
        vars(twin.transformer)["_diff_es_router"].point_at(stage)
        for parameter in twin.transformer.parameters():
            parameter.zero_()
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned)


@every_mode
@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtype_changes_while_routed_reach_every_stage(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode, dtype: torch.dtype
) -> None:
    models = [pruned_model(pipe.transformer, bank, stage, schedule).to(dtype) for stage in STAGES]
    before = snapshot(pipe.transformer)
    dense = copy.deepcopy(pipe.transformer).to(dtype)
    apply_(pipe, bank, schedule, mode=mode)
    pipe.transformer(**call_at(timestep_in(1)))  # thin weights of a stage are attached when the dtype changes
    pipe.to(dtype)
    for stage in (*STAGES, 0):
        call = call_at(timestep_in(stage), dtype=dtype)
        assert torch.equal(pipe.transformer(**call).sample, models[stage](**call).sample)
    assert pipe.transformer.transformer_blocks[0].attn1.to_q.weight.dtype == dtype
    remove_(pipe)
    assert same_state(pipe.transformer, before)
    assert {parameter.dtype for parameter in pipe.transformer.parameters()} == {dtype}
    call = call_at(300, dtype=dtype)
    assert torch.equal(pipe.transformer(**call).sample, dense(**call).sample)


@every_mode
@pytest.mark.parametrize("offload_first", [True, False])
@every_method
def test_model_offload_in_both_orders(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode, offload_first: bool
) -> None:
    """`enable_model_cpu_offload` replaces forwards and moves the model in each run; the CPU stands for the GPU."""
    dense = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule, mode=mode):
        pruned = sample(pipe, REQUESTS, SAMPLER)
    if offload_first:
        pipe.enable_model_cpu_offload(device="cpu")
        sample(pipe, REQUESTS, SAMPLER)
    apply_(pipe, bank, schedule, mode=mode)
    if not offload_first:
        pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipe.transformer, "_hf_hook")
    for _ in range(2):
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned)
    remove_(pipe)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)
    remove_hook_from_module(pipe.transformer)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)


@every_method
def test_the_state_dict_of_a_routed_model_is_dense(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    dense = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    mark = fingerprint(pipe.transformer)
    with routed(pipe, bank, schedule):
        pruned = sample(pipe, REQUESTS, SAMPLER)
        state = pipe.transformer.state_dict()
        assert state.keys() == dense.keys()
        assert all(torch.equal(state[name], dense[name]) for name in dense)
        assert fingerprint(pipe.transformer) == mark
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned), "saving ended the routing"


@every_mode
@every_method
def test_saving_a_routed_pipeline_writes_the_dense_one(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode, tmp_path: Path
) -> None:
    dense = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule, mode=mode):
        sample(pipe, REQUESTS, SAMPLER)
        pipe.save_pretrained(tmp_path)
    loaded = DiTPipeline.from_pretrained(tmp_path)
    assert torch.equal(sample(loaded, REQUESTS, SAMPLER), dense)
    transformer, report = DiTTransformer2DModel.from_pretrained(tmp_path / "transformer", output_loading_info=True)
    assert not any(report.values()), report
    assert fingerprint(transformer) == bank.fingerprint


def test_loading_weights_into_a_routed_model_is_refused(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    state = pipe.transformer.state_dict()
    with routed(pipe, bank, schedule):
        pruned = sample(pipe, REQUESTS, SAMPLER)
        with pytest.raises(UnsupportedModelError, match=r"remove_\(pipe\)"):
            pipe.transformer.load_state_dict(state)
        assert torch.equal(sample(pipe, REQUESTS, SAMPLER), pruned)
    pipe.transformer.load_state_dict(state)
