"""Replay changes no bit, for every pair of a pipeline and a sampler that diffusers supports."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diff_es.fitness import TrajectoryFitness
from diff_es.metrics import Metric
from pipelines.prepared import bank_of, pipe_with, plan_of, requests_of, settings_of
from pipelines.registry import PAIRS, STEPS, TinyPipeline
from pipelines.samplers import Sampler

#: Sampling starts in the last stage: the second shares two stages with the first, the third one.
CANDIDATES = ((2, 1, 3), (0, 1, 3), (2, 4, 3))
SHARED = (0, 2, 1)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("own", "sampler"), PAIRS, ids=[f"{own.name}, {sampler.name}" for own, sampler in PAIRS])
def test_replay_changes_no_bit(own: TinyPipeline, sampler: Sampler) -> None:
    pipe = pipe_with(own, sampler)
    plan = plan_of(pipe)
    bank = bank_of(own, plan)
    seen: list[Tensor] = []

    def kept(latents: Tensor) -> Tensor:
        seen.append(latents)
        return latents.flatten(1).mean(dim=1)

    with_replay, without = (
        TrajectoryFitness(
            pipe,
            bank,
            requests_of(pipe),
            bank.uniform_allocation(),
            metric=Metric("kept", kept, True, "latents", reference=False),
            sampler=settings_of(own),
            **settings,
        )
        for settings in ({}, {"replay_bytes": 0})
    )
    calls = sampler.calls(STEPS) * own.calls_per_step
    for levels, shared in zip(CANDIDATES, SHARED, strict=True):
        found, expected = with_replay(levels), without(levels)
        assert torch.equal(seen[-2], seen[-1]) and seen[-1].isfinite().all()
        known = sum(plan.steps_per_stage[plan.num_stages - shared :]) * own.calls_per_step
        assert (expected.denoiser_calls, expected.replayed_calls) == (calls, 0)
        assert (found.denoiser_calls, found.replayed_calls) == (calls - known, known)
    assert not torch.equal(seen[1], seen[3]), "pruning did not change the images"
