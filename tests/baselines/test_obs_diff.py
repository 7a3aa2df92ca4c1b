"""OBS-Diff from calibration to images, on a tiny untrained pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.bank import Bank
from diff_es.calibration import CalibrationConfig, CalibrationStats, SamplingSource, calibrate
from diff_es.denoisers import Layer, spec_of
from diff_es.errors import InputError
from diff_es.pruning import BankConfig, build_bank, pruners
from diff_es.routing import routed
from diff_es.sampling import Requests, sample
from diff_es.stages import StagePlan
from support import HEADS, PLAN, REQUESTS, SAMPLER, columns_of, output_of, same_state, snapshot, tiny_pipe, tiny_source

METHOD = "obs-diff"
#: As the authors do: the inputs that the dense model meets while it samples.
SOURCE = SamplingSource(Requests.cycle(range(10), 3, 0), SAMPLER)


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    """In float64, so that the bank stores float64."""
    pipe = tiny_pipe("geglu")
    pipe.transformer.double()
    return pipe


@pytest.fixture(scope="module")
def stats(pipe: DiTPipeline) -> CalibrationStats:
    return calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, pruners[METHOD].needs))


def layers_of(pipe: DiTPipeline) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).width_layers(pipe.transformer)


@pytest.mark.parametrize("intercept", [False, True])
def test_every_level_solves_the_weighted_least_squares(
    pipe: DiTPipeline, stats: CalibrationStats, intercept: bool
) -> None:
    """The weight on the kept columns that is nearest to W x in the weighted mean, damped by 1 % of the diagonal."""
    bank = build_bank(pipe, stats, PLAN, BankConfig(METHOD, HEADS, intercept=intercept))
    for layer in layers_of(pipe):
        path = output_of(layer)
        moments = stats.of(0, layer).step_weighted_moments
        assert moments is not None
        hessian, mean = moments[path].second.double(), moments[path].mean.double()
        if intercept:
            hessian = hessian - torch.outer(mean, mean)
        damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
        output = pipe.transformer.get_submodule(path)
        weight, bias = output.weight.detach(), output.bias.detach()
        for level in range(1, HEADS + 1):
            thin = bank.thin(0, layer, level)
            kept = columns_of(layer, thin.kept)
            expected = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ weight.T).T
            assert (thin.outputs[f"{path}.weight"] - expected).norm() <= 1e-6 * weight.norm(), (layer.name, level)
            assert (f"{path}.bias" in thin.outputs) == intercept
            if intercept:
                torch.testing.assert_close(thin.outputs[f"{path}.bias"], bias + weight @ mean - expected @ mean[kept])


def test_the_weights_of_the_steps_change_the_result(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    """Against the very same moments of the steps with even weights: the same solver, another Hessian."""
    weighted = build_bank(pipe, stats, PLAN, BankConfig(METHOD, HEADS))
    steps = StagePlan.split(PLAN.timesteps, len(PLAN.timesteps))
    by_step = calibrate(pipe, tiny_source(), CalibrationConfig(steps, ("second_moment",))).sets
    even = {name: torch.stack([tensors[name] for tensors in by_step]).mean(dim=0) for name in by_step[0]}
    plain = build_bank(pipe, CalibrationStats((even,), PLAN.num_stages), PLAN, BankConfig("obs", HEADS))
    for layer in layers_of(pipe):
        name = f"{output_of(layer)}.weight"
        first, second = (bank.thin(0, layer, 1).outputs[name] for bank in (weighted, plain))
        assert not torch.allclose(first, second, rtol=1e-4)


def test_it_is_one_model_for_all_stages_and_half_of_it_makes_images() -> None:
    pipe = tiny_pipe()
    stats = calibrate(pipe, SOURCE, CalibrationConfig(PLAN, pruners[METHOD].needs))
    bank: Bank = build_bank(pipe, stats, PLAN, BankConfig(METHOD, HEADS))
    assert pruners[METHOD].one_set
    assert bank.info.shared
    assert len(bank.shards) == 1
    before = snapshot(pipe.transformer)
    dense = sample(pipe, REQUESTS, SAMPLER)
    schedule = bank.uniform_allocation().resolve(bank.space(0.5).uniform())
    with routed(pipe, bank, schedule):
        images = sample(pipe, REQUESTS, SAMPLER)
        assert pipe.transformer.transformer_blocks[0].attn1.heads == HEADS // 2
    assert bool(images.isfinite().all())
    assert not torch.equal(images, dense)
    assert same_state(pipe.transformer, before)


def test_a_bank_needs_its_own_statistic(pipe: DiTPipeline) -> None:
    """Plain moments would make plain OBS under another name."""
    other = calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ("second_moment",)))
    with pytest.raises(InputError, match=r"calibrate with collect=\('step_weighted_moment',\)"):
        build_bank(pipe, other, PLAN, BankConfig(METHOD, HEADS))


def test_plain_methods_are_not_one_model() -> None:
    assert [name for name in ("obs", "wanda", "layerdrop") if pruners[name].one_set] == []
    assert pruners["magnitude"].one_set, "weights alone are the same at every timestep"
