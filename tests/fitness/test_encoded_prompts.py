"""Prompts are encoded once, and nothing but the time changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diff_es.fitness import TrajectoryFitness, run
from diff_es.fitness.prompts import PromptEncodings
from diff_es.metrics import Metric
from diff_es.routing import routed
from diff_es.sampling import PromptRequests
from pipelines.prepared import bank_of, fresh, plan_of, settings_of
from pipelines.registry import PIPELINES, TinyPipeline

REQUESTS = PromptRequests.consecutive(("a coat", "a shoe", "a bag"), 0)
TEXT = [own for own in PIPELINES if own.name in {"sd15", "sdxl", "pixart-sigma", "hunyuan-dit", "sd3", "flux", "flux2"}]
TEXT += [own for own in PIPELINES if own.name in {"sana", "lumina2", "z-image", "qwen-image"}]


def latents_mean(latents: Tensor) -> Tensor:
    return latents.flatten(1).mean(dim=1)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("own", TEXT, ids=[own.name for own in TEXT])
def test_candidates_are_sampled_as_with_encoders_that_run_each_time(own: TinyPipeline) -> None:
    """Two batches and two candidates: each prompt goes through the encoder once, and no bit differs."""
    pipe = fresh(own)
    bank = bank_of(own, plan_of(pipe))
    metric = Metric("mean", latents_mean, True, "latents", reference=False)
    sampler = settings_of(own)
    fitness = TrajectoryFitness(
        pipe, bank, REQUESTS, bank.uniform_allocation(), metric=metric, sampler=sampler, batch_size=2
    )
    encoded: list[int] = []
    pipe.text_encoder.register_forward_hook(lambda *_: encoded.append(1))
    schedules = [bank.uniform_allocation().resolve(levels) for levels in ((2, 1, 3), (0, 1, 3))]
    found = [fitness.sample(schedule) for schedule in schedules]
    once = len(encoded)
    for schedule, results in zip(schedules, found, strict=True):
        with routed(pipe, bank, schedule):
            for batch, result in zip(REQUESTS.batches(2), results, strict=True):
                expected = run(pipe, batch, sampler, decode=False)
                assert torch.equal(result.latents, expected.latents)
    assert len(encoded) - once == 2 * once > 0
    assert "encode_prompt" not in vars(pipe)


class Pipe:
    """Stands for a pipeline; counts how often it really encodes."""

    def __init__(self) -> None:
        self.calls = 0

    def encode_prompt(self, prompt: list[str], embeds: Any = None, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        self.calls += 1
        return torch.full((len(prompt),), scale), [torch.zeros(1)]


def test_other_arguments_are_other_encodings() -> None:
    pipe, encodings = Pipe(), PromptEncodings()
    with encodings.used_by(pipe):
        for prompt, scale in ((["a"], 1.0), (["a"], 2.0), (["a, b"], 1.0), (["a", "b"], 1.0), (["a"], 2.0)):
            assert pipe.encode_prompt(prompt, scale=scale)[0].tolist() == [scale] * len(prompt)
    assert pipe.calls == 4


def test_encodings_that_are_given_are_passed_on() -> None:
    pipe, encodings = Pipe(), PromptEncodings()
    with encodings.used_by(pipe):
        for _ in range(2):
            pipe.encode_prompt(["a"], torch.zeros(2))
            pipe.encode_prompt(["a"], [torch.zeros(2)])
    assert pipe.calls == 4


def test_what_the_pipeline_does_to_an_encoding_stays_there() -> None:
    pipe, encodings = Pipe(), PromptEncodings()
    with encodings.used_by(pipe):
        for _ in range(3):
            first, (second,) = pipe.encode_prompt(["a"])
            assert (first.item(), second.item()) == (1.0, 0.0)
            first.add_(5)
            second.add_(5)


def test_a_users_own_encoder_survives() -> None:
    pipe = Pipe()
    own = pipe.encode_prompt
    pipe.encode_prompt = own  # type: ignore[method-assign]  # an attribute of the instance
    with pytest.raises(KeyError), PromptEncodings().used_by(pipe):
        raise KeyError
    assert vars(pipe)["encode_prompt"] is own
    with PromptEncodings().used_by(object()):
        pass
