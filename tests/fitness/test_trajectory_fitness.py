"""Fitness: replay changes no bit, every call is counted, the model is dense again whatever happens."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, EulerAncestralDiscreteScheduler
from torch import Tensor, nn

from diff_es.bank import Bank
from diff_es.denoisers import output_bytes, output_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.fitness import TrajectoryFitness, run
from diff_es.metrics import Metric, metrics
from diff_es.metrics.no_reference import CLIP_IQA
from diff_es.metrics.no_reference.network import enlarge
from diff_es.routing import is_routed, remove_, routed
from diff_es.sampling import Requests, SamplerConfig, sample
from diff_es.schedule import Levels
from diff_es.search import Racing, Rival
from diff_es.timesteps import stage_plan
from support import METHODS, PLAN, REQUESTS, SAMPLER, mixed_levels, same_state, snapshot, tiny_bank, tiny_pipe

CALLS = len(PLAN.timesteps)
PROBES = Requests.cycle(range(10), 3, 200)


@cache
def _dense() -> DiTPipeline:
    return tiny_pipe()


@cache
def _bank(method: str) -> Bank:
    return tiny_bank(_dense(), method)


@pytest.fixture
def pipe() -> DiTPipeline:
    return copy.deepcopy(_dense())


@pytest.fixture
def bank() -> Bank:
    return _bank("obs")


def fitness_of(pipe: DiTPipeline, bank: Bank, **settings: Any) -> TrajectoryFitness:
    settings = {"metric": "latent_mse", "sampler": SAMPLER, "batch_size": 2, **settings}
    return TrajectoryFitness(pipe, bank, PROBES, bank.uniform_allocation(), **settings)


def test_a_pipeline_without_a_vae_is_refused_at_once(pipe: DiTPipeline, bank: Bank) -> None:
    pipe.register_modules(vae=None)
    with pytest.raises(UnsupportedModelError, match="DiTPipeline has no VAE"):
        fitness_of(pipe, bank)
    with pytest.raises(UnsupportedModelError, match="DiTPipeline has no VAE"):
        run(pipe, REQUESTS, SAMPLER)


def candidates(count: int, num_levels: int, seed: int = 0) -> list[Levels]:
    """Children of a slowly moving parent, as in a search: most share a prefix with an earlier one."""
    dice = random.Random(seed)
    parent = [2, 2, 2]
    found = []
    for _ in range(count):
        child = list(parent)
        child[dice.randrange(3)] = dice.randint(0, num_levels)
        found.append(tuple(child))
        parent = child if dice.random() < 0.5 else parent
    return found


SAMPLERS = [(None, 4.0), (None, 1.0), (DDPMScheduler, 4.0), (EulerAncestralDiscreteScheduler, 4.0)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("scheduler", "guidance"), SAMPLERS)
def test_replay_changes_no_bit(pipe: DiTPipeline, bank: Bank, scheduler: type[Any] | None, guidance: float) -> None:
    """50 candidates each; the stochastic schedulers draw noise in every step."""
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    bank = Bank(replace(bank.info, plan=stage_plan(pipe, 3, CALLS)), bank.shards)
    settings = {"sampler": SamplerConfig(CALLS, guidance), "batch_size": 3}
    fitness, full = fitness_of(pipe, bank, **settings), fitness_of(pipe, bank, **settings, replay_bytes=0)
    allocation = bank.uniform_allocation()
    counts = []
    for turn, levels in enumerate(candidates(50, bank.num_levels)):
        found, expected = fitness(levels), full(levels)
        assert found.fitness == expected.fitness
        assert (expected.denoiser_calls, expected.replayed_calls) == (CALLS, 0)
        assert found.denoiser_calls + found.replayed_calls == CALLS
        counts.append(found.replayed_calls)
        if turn % 5 == 0:
            schedule = allocation.resolve(levels)
            assert torch.equal(fitness.sample(schedule)[0].latents, full.sample(schedule)[0].latents)
    assert set(counts) == {0, 2, 4, 6}, "the candidates did not share prefixes of every length"


@pytest.mark.parametrize("method", METHODS)
def test_calls_are_replayed_up_to_the_first_change_in_sampling_order(pipe: DiTPipeline, method: str) -> None:
    bank = _bank(method)
    fitness = fitness_of(pipe, bank)
    first = fitness((4, 4, 4))
    assert (first.denoiser_calls, first.replayed_calls) == (12, 0)
    # Sampling starts in the last stage: changing stage 0 leaves the calls of stages 2 and 1 known.
    assert fitness((0, 4, 4)).replayed_calls == 8
    assert fitness((4, 0, 4)).replayed_calls == 4
    assert fitness((4, 4, 0)).replayed_calls == 0
    assert fitness((4, 4, 4)).replayed_calls == 12


@pytest.mark.parametrize("replay_bytes", [1, 5000, 2**20])
def test_eviction_never_changes_results(pipe: DiTPipeline, bank: Bank, replay_bytes: int) -> None:
    """One output takes 1,024 bytes for the batch of two: the limits keep none, four and all."""
    full = fitness_of(pipe, bank, replay_bytes=0)
    small = fitness_of(pipe, bank, replay_bytes=replay_bytes)
    for levels in candidates(12, bank.num_levels, seed=1):
        counted = small(levels)
        assert counted.fitness == full(levels).fitness
        assert counted.denoiser_calls + counted.replayed_calls == 12
        assert small._store.bytes <= replay_bytes
        assert small._store.bytes == sum(map(output_bytes, small._store._outputs.values()))


def test_stored_outputs_are_not_changed_by_the_pipeline(pipe: DiTPipeline, bank: Bank) -> None:
    fitness = fitness_of(pipe, bank)
    fitness((2, 2, 2))
    kept = {key: output_of(known).clone() for key, known in fitness._store._outputs.items()}
    fitness((2, 2, 2))
    assert kept.keys() == fitness._store._outputs.keys()
    assert all(torch.equal(output_of(fitness._store._outputs[key]), output) for key, output in kept.items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metric", ["ssim", "latent_cosine"])
def test_the_fitness_is_the_mean_over_the_probes(pipe: DiTPipeline, method: str, metric: str) -> None:
    """Recomputed with the public router and one pipeline run per batch."""
    bank = _bank(method)
    levels = mixed_levels(bank)
    found = fitness_of(pipe, bank, metric=metric)(levels)
    scores = []
    for batch in PROBES.batches(2):
        dense = run(pipe, batch, SAMPLER)
        with routed(pipe, bank, bank.uniform_allocation().resolve(levels)):
            pruned = run(pipe, batch, SAMPLER)
        needs = metrics[metric].needs
        scores += metrics[metric](pruned.of(needs), dense.of(needs)).tolist()
    assert len(scores) == len(PROBES)
    assert found.fitness == pytest.approx(sum(scores) / len(scores), rel=1e-6)
    assert found.scores == pytest.approx(scores, rel=1e-6)


def brightness(images: Tensor) -> Tensor:
    return images.flatten(1).mean(dim=1)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_without_a_reference_the_dense_model_never_runs(pipe: DiTPipeline, bank: Bank, higher_is_better: bool) -> None:
    levels = mixed_levels(bank)
    routings = []
    pipe.transformer.register_forward_pre_hook(lambda *_: routings.append(is_routed(pipe)))
    metric = Metric("brightness", brightness, higher_is_better, "images", reference=False)
    found = fitness_of(pipe, bank, metric=metric)(levels)
    assert len(routings) == found.denoiser_calls == 2 * CALLS and all(routings)
    with routed(pipe, bank, bank.uniform_allocation().resolve(levels)):
        images = torch.cat([sample(pipe, batch, SAMPLER) for batch in PROBES.batches(2)])
    expected = float(images.mean(dim=(1, 2, 3)).mean())
    assert found.fitness == pytest.approx(expected if higher_is_better else -expected, rel=1e-6)
    assert all((score > 0) is higher_is_better for score in found.scores), "scores are turned round like the fitness"


def test_a_quality_network_with_random_weights_scores_routed_images(
    pipe: DiTPipeline, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is a small convolution; what is tested is the way from the schedule to the score and back."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    monkeypatch.setattr(CLIP_IQA, "_loaded", None)
    monkeypatch.setattr(CLIP_IQA, "_build", lambda path: network)
    monkeypatch.setenv("DIFF_ES_WEIGHTS_CLIP_IQA", __file__)
    fitness = fitness_of(pipe, bank, metric="clip_iqa")
    found = fitness(mixed_levels(bank)).fitness
    schedule = bank.uniform_allocation().resolve(mixed_levels(bank))
    images = torch.cat([result.of("images") for result in fitness.sample(schedule)])
    with torch.no_grad():
        assert found == pytest.approx(float(network(enlarge(images)).mean()), rel=1e-5)
    assert found != fitness((0, 0, 0)).fitness


def test_lower_is_better_is_turned_round(pipe: DiTPipeline, bank: Bank) -> None:
    fitness = fitness_of(pipe, bank)
    assert fitness((4, 4, 4)).fitness < fitness((1, 0, 0)).fitness < 0
    assert fitness((0, 0, 0)).fitness == 0


def test_the_model_is_dense_after_each_call(pipe: DiTPipeline, bank: Bank) -> None:
    before, decode, images = snapshot(pipe.transformer), vars(pipe.vae).get("decode"), sample(pipe, REQUESTS, SAMPLER)
    fitness = fitness_of(pipe, bank, metric="ssim")
    for levels in ((1, 2, 3), (4, 4, 4), (1, 2, 3)):
        fitness(levels)
        assert same_state(pipe.transformer, before)
        assert vars(pipe.vae).get("decode") is decode
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), images)


class TroubleError(Exception):
    """Raised on purpose."""


def fail(*_: object) -> Tensor:
    raise TroubleError


@pytest.mark.parametrize("place", ["denoiser", "vae", "metric"])
def test_the_model_is_dense_after_an_exception(pipe: DiTPipeline, bank: Bank, place: str) -> None:
    """Wherever it is raised, and while its traceback is still alive."""
    metric: str | Metric = Metric("broken", fail, True, "images") if place == "metric" else "ssim"
    fitness = fitness_of(pipe, bank, metric=metric)
    _ = fitness._dense
    broken = {"denoiser": pipe.transformer.transformer_blocks[1], "vae": pipe.vae.decoder}.get(place)
    handle = broken.register_forward_hook(fail) if broken is not None else None
    before = snapshot(pipe.transformer)
    with pytest.raises(TroubleError) as caught:
        fitness((1, 2, 3))
    assert caught.value is not None
    assert not is_routed(pipe)
    assert same_state(pipe.transformer, before)
    assert "decode" not in vars(pipe.vae)
    if handle is not None:
        handle.remove()
        fresh = fitness_of(copy.deepcopy(_dense()), bank, metric="ssim")
        assert fitness((1, 2, 3)).fitness == fresh((1, 2, 3)).fitness


def test_latent_metrics_never_decode(pipe: DiTPipeline, bank: Bank) -> None:
    decoded = []
    pipe.vae.decoder.register_forward_hook(lambda *_: decoded.append(1))
    latent = fitness_of(pipe, bank, metric="latent_mse")
    latent((1, 2, 3))
    assert decoded == []
    images = fitness_of(pipe, bank, metric="ssim")
    images((1, 2, 3))
    assert len(decoded) == 4  # two batches, dense and routed


def test_stopping_before_the_decoder_gives_the_same_latents(pipe: DiTPipeline) -> None:
    whole, stopped = run(pipe, REQUESTS, SAMPLER), run(pipe, REQUESTS, SAMPLER, decode=False)
    assert stopped.images is None
    assert torch.equal(whole.latents, stopped.latents)
    assert whole.images is not None
    with torch.no_grad():
        decoded = pipe.vae.decode(whole.latents / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(whole.images, (decoded / 2 + 0.5).clamp(0, 1), rtol=1e-5, atol=1e-6)


def test_a_users_own_decode_survives(pipe: DiTPipeline) -> None:
    """`pipe.vae.decode = torch.compile(pipe.vae.decode)` is a common line."""
    used = []
    original = pipe.vae.decode

    def own(*args: Any, **kwargs: Any) -> Any:
        used.append(1)
        return original(*args, **kwargs)

    pipe.vae.decode = own
    run(pipe, REQUESTS, SAMPLER)
    run(pipe, REQUESTS, SAMPLER, decode=False)
    assert pipe.vae.decode is own
    assert len(used) == 1


@pytest.mark.parametrize(
    "metric", ["ssim", "latent_mse", Metric("brightness", brightness, True, "images", reference=False)]
)
def test_nan_weights_give_nan_fitness(pipe: DiTPipeline, bank: Bank, metric: str | Metric) -> None:
    name = next(name for name in bank.shards[1] if "attn1/level-002/" in name and name.endswith(".weight"))
    poisoned = {**bank.shards[1], name: torch.full_like(bank.shards[1][name], math.nan)}
    broken = Bank(bank.info, (bank.shards[0], poisoned, bank.shards[2]))
    fitness = fitness_of(pipe, broken, metric=metric)
    assert math.isnan(fitness((2, 2, 2)).fitness)
    assert math.isfinite(fitness((2, 1, 2)).fitness)


def test_model_offload_and_replay_go_together(pipe: DiTPipeline, bank: Bank) -> None:
    """Offload replaces the denoiser's forward after every run of the pipeline; the CPU stands for the GPU."""
    expected = [fitness_of(pipe, bank, metric="ssim")(levels) for levels in candidates(4, bank.num_levels)]
    pipe.enable_model_cpu_offload(device="cpu")
    fitness = fitness_of(pipe, bank, metric="ssim")
    offloaded = [fitness(levels) for levels in candidates(4, bank.num_levels)]
    assert [outcome.fitness for outcome in offloaded] == [outcome.fitness for outcome in expected]
    assert sum(outcome.replayed_calls for outcome in offloaded) > 0
    latents = fitness_of(pipe, bank)
    assert latents((1, 1, 1)).fitness == fitness_of(copy.deepcopy(_dense()), bank)((1, 1, 1)).fitness


def test_another_model_or_metric_is_refused(pipe: DiTPipeline, bank: Bank) -> None:
    with pytest.raises(InputError, match=r"Unknown metric 'sim'.*did you mean 'ssim'"):
        fitness_of(pipe, bank, metric="sim")
    with pytest.raises(UnsupportedModelError, match="another model"):
        fitness_of(tiny_pipe(seed=3), bank)
    with routed(pipe, bank, bank.uniform_allocation().resolve((1, 1, 1))), pytest.raises(UnsupportedModelError):
        fitness_of(pipe, bank)
    with pytest.raises(InputError):
        fitness_of(pipe, bank)((1, 1))


def test_the_schedule_may_hold_layer_levels(pipe: DiTPipeline, bank: Bank) -> None:
    fitness = fitness_of(pipe, bank)
    schedule = replace(bank.uniform_allocation().resolve((1, 1, 1)), layer_levels=((0, 1, 2, 1),) * 3)
    assert fitness.score(schedule).fitness != fitness((1, 1, 1)).fitness
    with routed(pipe, bank, schedule):
        latents = run(pipe, next(PROBES.batches(2)), SAMPLER).latents
    assert torch.equal(fitness.sample(schedule)[0].latents, latents)
    with pytest.raises(UnsupportedModelError):
        remove_(pipe)


@pytest.mark.parametrize("decode", [True, False])
def test_a_result_does_not_depend_on_its_batch_with_noise_at_every_step(pipe: DiTPipeline, decode: bool) -> None:
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    together = run(pipe, PROBES, SAMPLER, decode=decode)
    alone = [run(pipe, one, SAMPLER, decode=decode) for one in PROBES.batches(1)]
    latents = torch.cat([result.latents for result in alone])
    torch.testing.assert_close(latents, together.latents, atol=1e-4, rtol=1e-4)
    assert "step" not in vars(pipe.scheduler)


def test_a_candidate_that_falls_behind_is_dropped_between_batches(pipe: DiTPipeline, bank: Bank) -> None:
    """Two probes, then one: dropped after two of three, with the calls of one batch and the scores of a full run."""
    fitness = fitness_of(pipe, bank)
    good, poor = fitness((1, 0, 0)), fitness((4, 4, 4))
    again = fitness_of(pipe, bank)
    rival = Rival((good.fitness,), (good.scores,), Racing(first=2, margin=0.01))
    dropped = again((4, 4, 4), rival)
    assert dropped.dropped and not good.dropped
    assert dropped.scores == poor.scores[:2]
    assert dropped.denoiser_calls == CALLS
    differences = [ours - theirs for ours, theirs in zip(poor.scores[:2], good.scores[:2], strict=True)]
    assert dropped.fitness == pytest.approx(good.fitness + sum(differences) / 2)
    assert not is_routed(pipe)
    unfinished = again((4, 4, 4))
    assert (unfinished.fitness, unfinished.replayed_calls) == (poor.fitness, CALLS)


def test_a_candidate_that_keeps_up_is_scored_on_all_probes(pipe: DiTPipeline, bank: Bank) -> None:
    fitness = fitness_of(pipe, bank)
    poor, good = fitness((4, 4, 4)), fitness((1, 0, 0))
    raced = fitness((1, 0, 0), Rival((poor.fitness,), (poor.scores,), Racing(first=2, margin=0.01)))
    assert (raced.fitness, raced.scores, raced.dropped) == (good.fitness, good.scores, False)


def test_a_race_needs_a_second_batch(pipe: DiTPipeline, bank: Bank) -> None:
    fitness = fitness_of(pipe, bank, batch_size=3)
    with pytest.raises(InputError, match="all probes are in one batch"):
        fitness((1, 1, 1), Rival((0.0,), ((0.0,) * 3,), Racing(first=2)))
