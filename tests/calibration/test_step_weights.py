"""The step-weighted moment of OBS-Diff, against hand-computed weights and a recomputation in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, HeunDiscreteScheduler
from torch import Tensor

from diff_es.calibration import CalibrationConfig, CalibrationSource, CalibrationStats, SamplingSource, calibrate
from diff_es.calibration.passes import plan_passes
from diff_es.calibration.statistics import Moments, step_weights
from diff_es.denoisers import Layer, spec_of
from diff_es.errors import InputError
from diff_es.sampling import Requests
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan
from support import PLAN, SAMPLER, output_of, tiny_pipe, tiny_source

CONFIG = CalibrationConfig(PLAN, ("step_weighted_moment",))


def layers_of(pipe: DiTPipeline) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).width_layers(pipe.transformer)


def test_weights_by_hand() -> None:
    assert step_weights(1) == (1.2,)
    assert step_weights(2) == pytest.approx((1.2, 0.8))
    # 0.4 · ln 3 / ln 4 = 0.316993, and ln 2 / ln 4 is a half.
    assert step_weights(4) == pytest.approx((1.2, 1.116993, 1.0, 0.8), abs=1e-6)
    assert step_weights(3, lowest=0.0, highest=1.0) == pytest.approx((1.0, math.log(2) / math.log(3), 0.0))


@pytest.mark.parametrize("num_steps", [2, 20, 50])
def test_weights_decrease_from_highest_to_lowest(num_steps: int) -> None:
    weights = step_weights(num_steps)
    assert len(weights) == num_steps
    assert list(weights) == sorted(weights, reverse=True)
    assert weights[0] == pytest.approx(1.2)
    assert weights[-1] == pytest.approx(0.8)
    drops = [first - second for first, second in pairwise(weights)]
    assert drops == sorted(drops), "logarithmic: the fall is steepest at the end"


def weighted_moments(stats: CalibrationStats, stage: int, layer: Layer) -> Moments:
    moments = stats.of(stage, layer).step_weighted_moments
    assert moments is not None
    return moments[output_of(layer)]


def moments_by_step(
    pipe: DiTPipeline, source: CalibrationSource, layer: Layer, plan: StagePlan
) -> list[tuple[Tensor, Tensor]]:
    """E[x xᵀ] and E[x] of every stage of a plan, noisiest first, float64."""
    seen: list[Tensor] = []
    found = []
    for stage in reversed(range(plan.num_stages)):
        seen.clear()
        calls: list[dict[str, Any]] = list(source.calls(pipe, plan, stage))
        linear = pipe.transformer.get_submodule(output_of(layer))
        handle = linear.register_forward_pre_hook(lambda _, args: seen.append(args[0].double().flatten(0, 1)))
        with torch.no_grad():
            for call in calls:
                pipe.transformer(**call)
        handle.remove()
        x = torch.cat(seen)
        found.append((x.T @ x / len(x), x.mean(dim=0)))
    return found


@pytest.mark.parametrize("kind", ["dataset", "sampling"])
def test_the_moment_is_the_weighted_mean_over_steps(kind: str) -> None:
    pipe = tiny_pipe()
    source = tiny_source() if kind == "dataset" else SamplingSource(Requests.cycle(range(10), 3, 0), SAMPLER)
    stats = calibrate(pipe, source, CONFIG)
    assert stats.shared
    plan = StagePlan.split(PLAN.timesteps, 6)
    alphas = torch.tensor([0.8 + 0.4 * math.log(6 - t + 1) / math.log(6) for t in range(1, 7)], dtype=torch.float64)
    for layer in layers_of(pipe):
        found = stats.of(1, layer)
        assert found.moments is None, "a plain OBS bank cannot be made from it by mistake"
        weighted = weighted_moments(stats, 1, layer)
        steps = moments_by_step(pipe, source, layer, plan)
        moment = sum(a * m for a, (m, _) in zip(alphas, steps, strict=True)) / alphas.sum()
        mean = sum(a * m for a, (_, m) in zip(alphas, steps, strict=True)) / alphas.sum()
        torch.testing.assert_close(weighted.second.double(), moment, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weighted.mean.double(), mean, rtol=1e-5, atol=1e-6)
        even = sum(m for m, _ in steps) / 6
        assert (moment - even).norm() > 1e-4 * even.norm(), "the test could not tell the weights from even ones"


def test_a_timestep_that_the_sampler_visits_twice_is_one_step() -> None:
    """Heun's method; six steps are eleven calls at six timesteps."""
    pipe = tiny_pipe()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    plan = stage_plan(pipe, 3, 6)
    assert len(plan.timesteps) == 11
    source = SamplingSource(Requests.cycle(range(10), 2, 0), SAMPLER)
    stats = calibrate(pipe, source, CalibrationConfig(plan, ("step_weighted_moment",)))
    layer = layers_of(pipe)[0]
    distinct = StagePlan.split(tuple(sorted(set(plan.timesteps), reverse=True)), 6)
    steps = moments_by_step(pipe, source, layer, distinct)
    weights = step_weights(6)
    expected = sum(w * m for w, (m, _) in zip(weights, steps, strict=True)) / sum(weights)
    found = weighted_moments(stats, 0, layer).second
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_several_passes_give_the_same_bits() -> None:
    pipe = tiny_pipe()
    whole = calibrate(pipe, tiny_source(), CONFIG).sets[0]
    needed = 2 * 8 * 64 * 65  # the sum of one step, and the weighted one of all
    with pytest.raises(InputError, match=f"memory_limit={needed - 1} bytes is too small"):
        calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ("step_weighted_moment",), memory_limit=needed - 1))
    limited = CalibrationConfig(PLAN, ("step_weighted_moment",), memory_limit=needed)
    again = calibrate(pipe, tiny_source(), limited).sets[0]
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_weighted_sum_takes_nothing_of_another_device() -> None:
    """It is kept on the CPU, where it counts beside the sum of one step if the denoiser is there too."""
    pipe = tiny_pipe()
    layers = layers_of(pipe)
    limited = CalibrationConfig(PLAN, ("step_weighted_moment",), memory_limit=2 * 8 * (64 * 65 + 16 * 17))
    here = plan_passes(pipe.transformer, layers, limited)
    there = plan_passes(pipe.transformer.to("meta"), layers, limited)
    assert [len(part) for part in here] == [2, 2]
    assert [len(part) for part in there] == [4]


def test_a_finished_set_is_read_again(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    stats = calibrate(pipe, tiny_source(), CONFIG, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["stage-00.safetensors"]
    again = calibrate(pipe, tiny_source(seed=5), CONFIG, tmp_path)  # another seed: it is not asked
    for layer in layers_of(pipe):
        first, second = weighted_moments(stats, 0, layer), weighted_moments(again, 2, layer)
        assert torch.equal(first.second, second.second)
