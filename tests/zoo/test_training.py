"""The shared loop: learning plan, batches, averaging, and the exact resume."""

from __future__ import annotations

import json
import resource
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diff_es.errors import ArtifactError, InputError
from diff_es.zoo.training import (
    CHECKPOINT_NAME,
    LOG_NAME,
    Batches,
    LoopConfig,
    SaveConfig,
    ema_decay_at,
    fit,
    learning_rate_at,
)

PLAN = LoopConfig(steps=12, batch_size=8, learning_rate=0.01, warmup_steps=2, decay_steps=4, ema_decay=0.9, workers=2)
ROWS = 40


@dataclass(frozen=True)
class TinyRecipe:
    loop: LoopConfig
    width: int = 6


class InterruptedRunError(Exception):
    """Stands for a run that is killed."""


def run(folder: Path, loop: LoopConfig, stop_after: int | None = None, width: int = 6) -> dict[str, torch.Tensor]:
    """Fit a small regression; optionally die in step ``stop_after``, with a checkpoint after each of a few steps."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(width) if loop.workers == 1 else nn.LayerNorm(width)
    model = nn.Sequential(nn.Linear(5, width), norm, nn.ReLU(), nn.Linear(width, 1))
    inputs = torch.randn(ROWS, 5)

    def loss(rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
        if step == stop_after:
            raise InterruptedRunError
        noisy = inputs[rows] + 0.1 * torch.randn(len(rows), 5, generator=generator)
        return torch.mean((model(noisy)[:, 0] - inputs[rows, 0]) ** 2)

    save = SaveConfig(folder=folder, checkpoint_seconds=0.0 if loop.steps < 100 else 60.0)
    return fit(model, loss, ROWS, TinyRecipe(loop, width), save).state_dict()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop_after", [1, 5, 9, 11])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop_after, workers):
    loop = replace(PLAN, workers=workers)
    whole = run(tmp_path / "whole", loop)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "cut", loop, stop_after)
    resumed = run(tmp_path / "cut", loop)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    stored = [load_file(tmp_path / name / CHECKPOINT_NAME) for name in ("whole", "cut")]
    assert stored[0].keys() == stored[1].keys()
    assert all(torch.equal(stored[0][key], stored[1][key]) for key in stored[0])


def test_the_average_follows_its_recursion(tmp_path):
    """Oracle: the EMA from the weights after every step, in float64."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(ROWS, 3)
    seen: list[torch.Tensor] = [model.weight.detach().double().clone()]

    def loss(rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
        if step > 0:
            seen.append(model.weight.detach().double().clone())
        return torch.mean(model(inputs[rows]) ** 2)

    loop = replace(PLAN, workers=1, decay_steps=0)
    ema = fit(model, loss, ROWS, TinyRecipe(loop), SaveConfig(folder=tmp_path))
    seen.append(model.weight.detach().double().clone())
    average = seen[0]
    for step, weight in enumerate(seen[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert torch.allclose(ema.weight.double(), average, atol=1e-6)
    assert not torch.allclose(ema.weight, model.weight)


def test_workers_compute_the_gradient_of_the_whole_batch(tmp_path):
    results = []
    for workers in (1, 2, 4):
        torch.manual_seed(0)
        model = nn.Linear(3, 1).double()
        inputs = torch.randn(ROWS, 3).double()

        def loss(rows, step, generator, model=model, inputs=inputs):
            return torch.mean((model(inputs[rows]) - 1.0) ** 2)

        loop = replace(PLAN, workers=workers)
        results.append(fit(model, loss, ROWS, TinyRecipe(loop), SaveConfig(folder=tmp_path / str(workers))).weight)
    assert torch.allclose(results[0], results[1], atol=1e-9)
    assert torch.allclose(results[0], results[2], atol=1e-9)


def test_threads_are_as_before_after_training(tmp_path):
    before = torch.get_num_threads()
    run(tmp_path, PLAN)
    assert torch.get_num_threads() == before


def test_training_learns(tmp_path):
    run(tmp_path, replace(PLAN, steps=300, workers=1))
    losses = [json.loads(line)["loss"] for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]


def test_more_steps_may_be_chosen_until_the_decay_begins(tmp_path):
    longer = replace(PLAN, steps=20)
    whole = run(tmp_path / "whole", longer)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "cut", PLAN, stop_after=8)
    again = run(tmp_path / "cut", longer)
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize(
    "other",
    [{"loop": replace(PLAN, steps=20)}, {"loop": replace(PLAN, learning_rate=0.02)}, {"loop": PLAN, "width": 7}],
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, other):
    with pytest.raises(InterruptedRunError):
        run(tmp_path, PLAN, stop_after=10)
    with pytest.raises(InputError, match="another recipe"):
        run(tmp_path, **other)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / CHECKPOINT_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match="start afresh"):
        run(tmp_path, PLAN)


def test_snapshots_see_the_average_so_far(tmp_path):
    seen = []
    model = nn.Linear(2, 1)
    save = SaveConfig(
        folder=tmp_path, snapshot_seconds=0.0, on_snapshot=lambda ema, step: seen.append((ema.weight.clone(), step))
    )
    loop = replace(PLAN, workers=1)
    fit(model, lambda rows, step, generator: model(torch.ones(1, 2)).square().sum(), ROWS, TinyRecipe(loop), save)
    assert [step for _, step in seen] == list(range(1, PLAN.steps))
    assert not torch.equal(seen[0][0], seen[-1][0])


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    plan = replace(PLAN, steps=100, warmup_steps=10, decay_steps=40, learning_rate=2.0)
    rates = [learning_rate_at(step, plan) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    assert rates[10:60] == [2.0] * 50
    assert rates[79] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[60:]))


def test_the_average_forgets_its_start_faster_than_it_averages_later():
    decays = [ema_decay_at(step, replace(PLAN, ema_decay=0.99)) for step in (0, 10, 10_000)]
    assert decays == pytest.approx([0.1, 0.55, 0.99])


def test_an_epoch_shows_every_row_once_and_epochs_differ():
    batches = Batches(ROWS, 8, seed=3)
    epochs = [[batches.at(5 * epoch + n).tolist() for n in range(5)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(ROWS))
    assert epochs[0] != epochs[1]
    assert Batches(ROWS, 8, seed=3).at(7).tolist() == epochs[1][2]
    assert Batches(ROWS, 8, seed=4).at(7).tolist() != epochs[1][2]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"workers": 3},
        {"workers": 0},
        {"decay_steps": 11},
        {"warmup_steps": -1},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0},
    ],
)
def test_plans_that_make_no_sense_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        replace(PLAN, **change)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="batch_size"):
        Batches(5, 8, seed=0)


def test_batch_norm_needs_one_worker(tmp_path):
    model = nn.BatchNorm1d(2)
    with pytest.raises(InputError, match="workers"):
        fit(model, lambda *_: model(torch.ones(2, 2)).sum(), ROWS, TinyRecipe(PLAN), SaveConfig(folder=tmp_path))


def test_a_failed_write_is_an_error_and_keeps_the_old_checkpoint(tmp_path):
    """A limit on the size of files stands for a full disk."""
    with pytest.raises(InterruptedRunError):
        run(tmp_path, PLAN, stop_after=3)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(ArtifactError, match="Cannot write"):
            run(tmp_path, PLAN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
