"""What only a GPU can show: no waiting in the denoising loop, CUDA graphs, copies beside the computation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from torch import Tensor, nn

from diff_es.bank import Bank
from diff_es.calibration.statistics import SecondMoment
from diff_es.denoisers import denoiser_of, spec_of, timestep
from diff_es.errors import UnsupportedModelError
from diff_es.fitness import TrajectoryFitness, batching
from diff_es.routing import Mode, apply_, choose_mode, compile_, compiled, remove_, routed, uncompile_
from diff_es.sampling import SamplerConfig, any_requests, forked_generators, sample
from diff_es.schedule import PruningSchedule
from support import PLAN, REQUESTS, SAMPLER, mixed_levels, same_state, snapshot, tiny_bank, tiny_pipe
from tiny_pipelines import tiny_flux

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
every_mode = pytest.mark.parametrize("mode", ["resident", "stream", "gather"])


@pytest.fixture(scope="module")
def bank() -> Bank:
    return tiny_bank(tiny_pipe(), "obs+intercept")


@pytest.fixture
def schedule(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


@pytest.fixture
def pipe() -> DiTPipeline:
    return tiny_pipe().to("cuda")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def calls(pipe: DiTPipeline) -> list[dict[str, Tensor]]:
    """One call per step, with timesteps as pipelines pass them: views of the scheduler's tensor on the device."""
    timesteps = torch.tensor(PLAN.timesteps, device="cuda")
    latents = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(1)).to("cuda")
    labels = torch.arange(4, device="cuda")
    return [{"hidden_states": latents, "timestep": t.expand(4), "class_labels": labels} for t in timesteps]


def run(pipe: DiTPipeline) -> Tensor:
    return torch.stack([denoiser_of(pipe)(**call).sample for call in calls(pipe)])


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_the_host_waits_for_the_timesteps_once_and_never_in_the_loop(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode
) -> None:
    with routed(pipe, bank, schedule, mode=mode):
        steps = calls(pipe)
        denoiser = denoiser_of(pipe)
        for call in (steps[0], *steps):  # the first reads the timesteps, and makes what is made once
            denoiser(**call)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for call in (*steps, *steps):
                denoiser(**call)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_pipeline_that_computes_its_timesteps_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX divides them by 1,000 on the device; the scheduler says on the host which one it was."""
    flux = tiny_flux(tmp_path).to("cuda")
    spec, stages = spec_of(flux.transformer), []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        stages.append(spec.timestep(module, args, kwargs))

    flux.transformer.register_forward_pre_hook(note, with_kwargs=True)
    monkeypatch.setattr(timestep, "_read", lambda value: pytest.fail(f"{value.device} was waited for"))
    sample(flux, any_requests(flux, 1), SamplerConfig(4, 0.0))
    assert stages == [1000.0, 750.0, 500.0, 250.0]


def test_a_stage_switch_allocates_nothing(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    for mode in ("resident", "stream"):
        with routed(pipe, bank, schedule, mode=mode) as router:
            for stage in (2, 1, 0, 2):
                router.point_at(stage)
            before = torch.cuda.memory_stats()["allocation.all.allocated"]
            for stage in (1, 0, 2):
                router.point_at(stage)
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == before, mode


@pytest.mark.parametrize("levels", [(1, 2, 3), (0, 1, 0)], ids=["with room", "without room"])
def test_all_modes_give_the_same_bits(pipe: DiTPipeline, bank: Bank, levels: tuple[int, ...]) -> None:
    """Without room for two stages, a stream copies a part of the next one's weights over those of the one that ends."""
    schedule = bank.uniform_allocation().resolve(levels)
    outputs = []
    for mode in ("resident", "stream", "gather"):
        with routed(pipe, bank, schedule, mode=mode):
            outputs += [run(pipe), run(pipe)]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_a_stream_may_be_left_while_it_copies(pipe: DiTPipeline, bank: Bank) -> None:
    """The dense weights that come back lie where the stages' weights were being copied to."""
    before = snapshot(pipe.transformer)
    for _ in range(20):
        with routed(pipe, bank, bank.uniform_allocation().resolve((0, 1, 0)), mode="stream"):
            pass
        assert same_state(pipe.transformer, before)


def test_a_dense_graph_does_not_outlive_the_weights_that_it_reads(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    dense = run(pipe)
    with compiled(pipe, "nothing"):
        assert torch.equal(run(pipe), dense)
        with routed(pipe, bank, schedule, mode="stream"):
            run(pipe)
        assert torch.equal(run(pipe), dense)


@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_graphs_give_the_bits_of_plain_calls(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule, mode: Mode
) -> None:
    dense = run(pipe)
    with routed(pipe, bank, schedule):
        expected = run(pipe)
    apply_(pipe, bank, schedule, mode=mode)
    compile_(pipe, "nothing")
    for _ in range(3):
        assert torch.equal(run(pipe), expected)
    remove_(pipe)
    assert torch.equal(run(pipe), dense), "a graph of the routed model was replayed"
    apply_(pipe, bank, bank.uniform_allocation().resolve((1, 1, 1)))
    other = run(pipe)
    uncompile_(pipe)
    assert torch.equal(run(pipe), other), "a graph of another schedule was replayed"


def test_outputs_of_graphs_are_not_overwritten(pipe: DiTPipeline) -> None:
    first, second = calls(pipe)[0], calls(pipe)[-1]
    with compiled(pipe, "nothing"):
        one = denoiser_of(pipe)(**first).sample
        kept = one.clone()
        denoiser_of(pipe)(**second)
        assert torch.equal(one, kept)


def test_an_offloaded_model_runs_without_graphs(
    bank: Bank, schedule: PruningSchedule, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tiny_pipe()
    with routed(pipe, bank, schedule):
        expected = sample(pipe, REQUESTS, SAMPLER)
    pipe.to("cuda")
    apply_(pipe, bank, schedule)
    compile_(pipe, "nothing")
    pipe.enable_model_cpu_offload()
    for _ in range(2):
        torch.testing.assert_close(sample(pipe, REQUESTS, SAMPLER), expected, rtol=1e-3, atol=1e-4)
    assert caplog.text.count("runs without CUDA graphs") == 1


def test_graphs_of_all_stages_share_the_memory_of_what_they_compute_between(pipe: DiTPipeline, bank: Bank) -> None:
    """Stages of the same shapes need no more than the first; inputs and outputs, which are small, each has its own."""
    grown = []
    repeats = {"hidden_states": (256, 1, 1, 1), "timestep": (256,), "class_labels": (256,)}
    large = [{name: value.repeat(repeats[name]) for name, value in call.items()} for call in calls(pipe)]
    with routed(pipe, bank, bank.uniform_allocation().resolve((2, 2, 2))), compiled(pipe, "nothing"):
        for call in large:
            before = torch.cuda.memory_reserved()
            denoiser_of(pipe)(**call)
            torch.cuda.empty_cache()
            grown.append(torch.cuda.memory_reserved() - before)
    assert sum(grown[1:]) < max(grown[0], 1)


@pytest.mark.parametrize("around", [torch.inference_mode, lambda: torch.autocast("cuda", torch.float16)])
def test_a_graph_that_was_recorded_in_a_mode_holds_when_it_has_ended(pipe: DiTPipeline, around: Any) -> None:
    plain = run(pipe)
    with around():
        inside = run(pipe)
    with compiled(pipe, "nothing"):
        for _ in range(2):
            with around():
                assert torch.equal(run(pipe), inside)
            assert torch.equal(run(pipe), plain)


def test_a_denoiser_that_waits_for_the_device_cannot_be_recorded_and_says_so(pipe: DiTPipeline) -> None:
    before = torch.cuda.current_stream()
    forward = pipe.transformer.forward

    def waiting(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.sample.sum().item()
        return output

    pipe.transformer.forward = waiting
    with (
        compiled(pipe, "nothing"),
        pytest.raises(UnsupportedModelError, match=r"cannot be recorded.*cuda_graphs=False"),
    ):
        run(pipe)
    assert torch.cuda.current_stream() == before
    run(pipe)


def test_graphs_and_gathered_weights_are_refused(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    with (
        routed(pipe, bank, schedule, mode="gather"),
        compiled(pipe, "nothing"),
        pytest.raises(UnsupportedModelError, match='mode="resident" or "stream"'),
    ):
        run(pipe)


def test_a_pipeline_with_graphs_is_not_copied_and_not_searched_with(pipe: DiTPipeline, bank: Bank) -> None:
    with compiled(pipe, "nothing"):
        with pytest.raises(UnsupportedModelError, match="uncompile_"):
            copy.deepcopy(pipe)
        with pytest.raises(UnsupportedModelError, match="shapes of every schedule"):
            TrajectoryFitness(pipe, bank, REQUESTS, bank.uniform_allocation(), sampler=SAMPLER)


@every_mode
def test_a_routed_pipeline_moves_to_the_gpu_and_back(bank: Bank, schedule: PruningSchedule, mode: Mode) -> None:
    pipe = tiny_pipe()
    before = snapshot(pipe.transformer)
    with routed(pipe, bank, schedule):
        expected = sample(pipe, REQUESTS, SAMPLER)
    apply_(pipe, bank, schedule, mode=mode)
    pipe.to("cuda")
    torch.testing.assert_close(sample(pipe, REQUESTS, SAMPLER), expected, rtol=1e-3, atol=1e-4)
    pipe.to("cpu")
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
    remove_(pipe)
    assert same_state(pipe.transformer, before)


@every_mode
def test_model_offload(bank: Bank, schedule: PruningSchedule, mode: Mode) -> None:
    pipe = tiny_pipe()
    with routed(pipe, bank, schedule):
        expected = sample(pipe, REQUESTS, SAMPLER)
    apply_(pipe, bank, schedule, mode=mode)
    pipe.enable_model_cpu_offload()
    for _ in range(2):
        torch.testing.assert_close(sample(pipe, REQUESTS, SAMPLER), expected, rtol=1e-3, atol=1e-4)


def test_streaming_parks_the_dense_weights_and_brings_them_back(
    pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
) -> None:
    weight = pipe.transformer.transformer_blocks[0].ff.net[2].weight
    with routed(pipe, bank, schedule, mode="stream"):
        run(pipe)
        assert weight.device.type == "cpu"
    assert pipe.transformer.transformer_blocks[0].ff.net[2].weight is weight
    assert weight.device.type == "cuda"


def test_the_planner_counts_what_is_free(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    plan = choose_mode(pipe, bank, schedule)
    assert plan.mode == "resident"
    tight = choose_mode(pipe, bank, schedule, plan.weight_bytes["stream"])
    assert tight.mode == "stream"
    assert "resident would take" in tight.why


def test_fitness_on_the_gpu_is_that_of_the_cpu(pipe: DiTPipeline, bank: Bank) -> None:
    values = []
    for own in (pipe, tiny_pipe()):
        fitness = TrajectoryFitness(own, bank, REQUESTS, bank.uniform_allocation(), sampler=SAMPLER)
        values.append([fitness(levels).fitness for levels in ((2, 2, 2), (1, 2, 3), (2, 2, 2))])
    assert values[0][0] == values[0][2]
    assert values[0] == pytest.approx(values[1], abs=1e-3)


@pytest.mark.parametrize("mode", ["gather", "stream"])
def test_every_memory_mode_gives_the_same_scores(pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
    values = []
    for own in ("resident", mode):
        fitness = TrajectoryFitness(pipe, bank, REQUESTS, bank.uniform_allocation(), sampler=SAMPLER, mode=own)
        values.append([fitness(levels).scores for levels in ((2, 2, 2), (0, 3, 3), (4, 0, 2), (2, 2, 2))])
    assert values[0] == values[1]


def test_second_moments_are_not_made_of_tf32() -> None:
    rows = torch.randn(512, 64, generator=torch.Generator().manual_seed(0)).to("cuda")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        moment = SecondMoment("x", 64, rows.device)
        moment.update(rows)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    exact = rows.double().T @ rows.double()
    torch.testing.assert_close(moment.products, exact, rtol=0, atol=1e-3)  # factors of 10 bits are off by 0.01


def test_the_trial_of_a_batch_size_occupies_memory(pipe: DiTPipeline) -> None:
    before = torch.cuda.memory_allocated()
    with batching._occupied(8 * 2**20, torch.device(pipe._execution_device)):
        assert torch.cuda.memory_allocated() == before + 8 * 2**20
    assert torch.cuda.memory_allocated() == before


def test_sampling_leaves_the_generators_of_the_gpu_as_they_were(pipe: DiTPipeline) -> None:
    before = torch.cuda.get_rng_state()
    with forked_generators(pipe, 3):
        first = torch.rand(4, device="cuda")
    with forked_generators(pipe, 3):
        assert torch.equal(torch.rand(4, device="cuda"), first)
    assert torch.equal(torch.cuda.get_rng_state(), before)
