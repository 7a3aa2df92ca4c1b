"""Measuring one contestant: images that break, a judge's look at them, costs of several side by side."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline
from torch import Tensor

from diff_es.bank import Bank
from diff_es.errors import InputError
from diff_es.evaluation import Judge, Judged
from diff_es.metrics import gaussian
from diff_es.routing import routed
from diff_es.run.measure import Bench, Contestant
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from support import PLAN, REQUESTS, SAMPLER, mixed_levels, same_state, snapshot, tiny_bank, tiny_pipe

DENSE = Contestant("dense", "")
CLASSES = 10


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def bank(pipe: DiTPipeline) -> Bank:
    return tiny_bank(pipe, "wanda")


def mixed(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


def pruned(bank: Bank) -> Contestant:
    return Contestant("pruned", "", mixed(bank), bank)


def label_judge() -> Judge:
    """Sees in every image the label that it was requested with. Statistics only: two images have no neighbours."""

    def look(images: Tensor) -> Judged:
        features = images.double().mean(dim=(1, 2)) / 255
        return Judged(features, torch.nn.functional.one_hot(torch.tensor(REQUESTS.labels), CLASSES).float())

    reference = gaussian(torch.rand(20, 3, generator=torch.Generator().manual_seed(0)))
    names = ("mean_frechet", "mean_score", "mean_precision", "mean_recall")
    return Judge(look, reference, None, "noise", names, "test", "ab12", knows_labels=True, splits=1)


def test_stored_samples_are_what_the_pipeline_makes(pipe: DiTPipeline, bank: Bank, tmp_path: Path) -> None:
    before = snapshot(pipe.transformer)
    bench = Bench(pipe, SAMPLER, None)
    own = bench.sample(pruned(bank), REQUESTS, tmp_path / "pruned", batch_size=2)
    dense = bench.sample(DENSE, REQUESTS, tmp_path / "dense", batch_size=2)
    assert same_state(pipe.transformer, before)
    assert own.seeds == dense.seeds == REQUESTS.seeds
    with routed(pipe, bank, mixed(bank)):
        expected = sample(pipe, REQUESTS, SAMPLER)
    for stored, images in ((own, expected), (dense, sample(pipe, REQUESTS, SAMPLER))):
        assert stored.tensor("images").dtype == torch.uint8
        assert torch.equal(stored.tensor("images"), (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    assert not torch.equal(own.tensor("latents"), dense.tensor("latents"))


def test_images_of_another_schedule_model_or_sampler_are_refused(pipe: DiTPipeline, bank: Bank, tmp_path: Path) -> None:
    bench = Bench(pipe, SAMPLER, None)
    bench.sample(pruned(bank), REQUESTS, tmp_path / "own", batch_size=2)
    other = bank.uniform_allocation().resolve((1, 1, 1))
    strangers = [
        (bench, DENSE),
        (bench, Contestant("other", "", other, bank)),
        (Bench(pipe, type(SAMPLER)(6, 1.0), None), pruned(bank)),
        (Bench(tiny_pipe(seed=1), SAMPLER, None), DENSE),
    ]
    for stranger, entry in strangers:
        with pytest.raises(InputError, match="was made with other settings"):
            stranger.sample(entry, REQUESTS, tmp_path / "own", batch_size=2)


def test_stored_samples_do_not_depend_on_the_batch_with_noise_at_every_step(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    pipe.scheduler = DDPMScheduler()
    bench = Bench(pipe, SAMPLER, None)
    one, both = (bench.sample(DENSE, REQUESTS, tmp_path / str(size), batch_size=size) for size in (1, 2))
    torch.testing.assert_close(one.tensor("latents"), both.tensor("latents"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("where", ["latents", "images"])
def test_a_broken_image_breaks_every_number_and_agrees_with_no_label(tmp_path: Path, where: str) -> None:
    """Half precision overflows in the denoiser, or in the VAE on latents that are finite."""
    pipe = tiny_pipe()
    bench = Bench(pipe, SAMPLER, label_judge())
    dense = bench.sample(DENSE, REQUESTS, tmp_path / "dense", batch_size=2)

    def poison(_: object, __: object, output: Tensor) -> Tensor:
        output[1] = math.nan
        return output

    part = pipe.transformer.proj_out_2 if where == "latents" else pipe.vae.decoder
    handle = part.register_forward_hook(poison)
    broken = bench.sample(DENSE, REQUESTS, tmp_path / "broken", batch_size=2)
    handle.remove()
    assert bool((broken.tensor("images")[1] == 0).all()), "black, so that a file of pixels can hold it"
    assert torch.equal(broken.tensor("images")[0], dense.tensor("images")[0])
    whole, hurt = (bench.assess(own, dense, REQUESTS) for own in (dense, broken))
    assert whole.values["label_agreement"] == 1 and whole.values["ssim"] == pytest.approx(1, abs=1e-6)
    assert hurt.values.pop("label_agreement") == 0.5
    assert set(hurt.values) == {"ssim", "latent_mse", "mean_frechet", "mean_score"}
    assert all(math.isnan(value) for value in hurt.values.values()), hurt.values


def test_quality_is_kept_and_read_again(pipe: DiTPipeline, bank: Bank, tmp_path: Path) -> None:
    bench = Bench(pipe, SAMPLER, None)
    own = bench.sample(pruned(bank), REQUESTS, tmp_path / "own", batch_size=2)
    dense = bench.sample(DENSE, REQUESTS, tmp_path / "dense", batch_size=2)
    first = bench.assess(own, dense, REQUESTS)
    written = (tmp_path / "own" / "quality.json").stat().st_mtime_ns
    assert bench.assess(own, dense, REQUESTS) == first
    assert (tmp_path / "own" / "quality.json").stat().st_mtime_ns == written
    assert [record.value for record in bench.measurements(first, REQUESTS)] == list(first.values.values())


def test_costs_of_all_contestants_side_by_side(pipe: DiTPipeline, bank: Bank) -> None:
    bench = Bench(pipe, SAMPLER, None)
    plans = {"dense": PLAN, "pruned": PLAN}
    costs = bench.costs((DENSE, pruned(bank)), plans, (3, 1), 1, scopes=("pipeline",))
    assert list(costs) == ["dense", "pruned"]
    assert costs["dense"].macs_ratio == 1 > costs["pruned"].macs_ratio > 0
    assert costs["dense"].parameters == costs["pruned"].parameters
    for cost in costs.values():
        assert [(entry.batch_size, entry.scope) for entry in cost.latency] == [(3, "pipeline"), (1, "pipeline")]
        assert all(entry.record.repeats == 1 for entry in cost.latency)
    untimed = bench.costs((DENSE, pruned(bank)), plans, (), 1)
    assert [cost.latency for cost in untimed.values()] == [(), ()]
    assert untimed["pruned"].macs == costs["pruned"].macs
