"""First-order importance over a run, against plain autograd and against what removing a weight really does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTPipeline
from torch import Tensor, nn

from diff_es.calibration import CalibrationConfig, SamplingSource, calibrate
from diff_es.calibration.importance import contributing, denoising_losses, importance
from diff_es.calibration.sources import DatasetSource
from diff_es.denoisers import Layer, spec_of
from diff_es.errors import InputError
from diff_es.stages import StagePlan
from support import PLAN, REQUESTS, SAMPLER, output_of, same_state, snapshot, tiny_pipe, tiny_source

CONFIG = CalibrationConfig(PLAN, ("importance",))


def double_pipe(activation: str = "gelu-approximate") -> DiTPipeline:
    pipe = tiny_pipe(activation)
    pipe.transformer.double()
    return pipe


def layers_of(pipe: DiTPipeline) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).width_layers(pipe.transformer)


def mean_loss(denoiser: nn.Module, pipe: DiTPipeline, source: DatasetSource, timestep: float) -> Tensor:
    """L_t written out: the mean over all elements of all calls."""
    pairs = list(source.targets(pipe, timestep))
    total = sum(((denoiser(**call).sample - target.to(call["hidden_states"])) ** 2).sum() for call, target in pairs)
    return total / sum(target.numel() for _, target in pairs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("activation", ["gelu-approximate", "geglu"])
def test_importance_equals_plain_autograd(activation: str) -> None:
    """All timesteps, both layers of both kinds, weights and biases, element by element."""
    pipe, source = double_pipe(activation), tiny_source()
    found = importance(pipe, source, layers_of(pipe), PLAN.timesteps)
    plain = copy.deepcopy(pipe.transformer)
    sum(mean_loss(plain, pipe, source, t) for t in PLAN.timesteps).backward()
    assert set(found) == {f"{path}/importance" for layer in layers_of(pipe) for path in (*layer.inputs, *layer.outputs)}
    for layer in layers_of(pipe):
        for path in layer.inputs:
            linear = plain.get_submodule(path)
            expected = (linear.weight * linear.weight.grad).abs().sum(dim=1) + (linear.bias * linear.bias.grad).abs()
            torch.testing.assert_close(found[f"{path}/importance"].double(), expected, rtol=1e-6, atol=1e-12)
        linear = plain.get_submodule(output_of(layer))
        expected = (linear.weight * linear.weight.grad).abs().sum(dim=0)
        torch.testing.assert_close(found[f"{output_of(layer)}/importance"].double(), expected, rtol=1e-6, atol=1e-12)


def test_importance_is_what_shrinking_each_weight_does_to_the_loss() -> None:
    """Brute force: (L(θ_k (1 - ε)) - L(θ_k (1 + ε))) / 2ε for every weight of one head, absolute values summed."""
    pipe, source = double_pipe(), tiny_source(4, guided=False)
    timesteps = PLAN.timesteps[3:5]
    layer = layers_of(pipe)[0]
    found = importance(pipe, source, [layer], timesteps)
    pairs = [pair for t in timesteps for pair in source.targets(pipe, t)]

    @torch.no_grad()
    def loss() -> float:
        return sum(float(F.mse_loss(pipe.transformer(**call).sample, target.double())) for call, target in pairs)

    @torch.no_grad()
    def change(tensor: Tensor, index: tuple[int, ...], step: float = 1e-4) -> float:
        before = tensor[index].clone()
        losses = []
        for factor in (1 - step, 1 + step):
            tensor[index] = before * factor
            losses.append(loss())
        tensor[index] = before
        return abs(losses[0] - losses[1]) / (2 * step)

    row, column = 5, 6  # of the second head, which owns 4…7
    value = pipe.transformer.get_submodule(layer.inputs[2])
    by_row = sum(change(value.weight, (row, j)) for j in range(value.weight.shape[1])) + change(value.bias, (row,))
    output = pipe.transformer.get_submodule(output_of(layer))
    by_column = sum(change(output.weight, (i, column)) for i in range(output.weight.shape[0]))
    assert float(found[f"{layer.inputs[2]}/importance"][row]) == pytest.approx(by_row, rel=1e-4)
    assert float(found[f"{output_of(layer)}/importance"][column]) == pytest.approx(by_column, rel=1e-4)
    assert by_row > 0 < by_column


def test_gradients_are_summed_before_the_absolute_value() -> None:
    """Two timesteps whose gradients partly cancel matter less together than apart."""
    pipe, source, layer = double_pipe(), tiny_source(), layers_of(double_pipe())[0]
    apart = [importance(pipe, source, [layer], [t]) for t in (664.0, 0.0)]
    together = importance(pipe, source, [layer], [664.0, 0.0])
    for name in together:
        assert bool((together[name] <= apart[0][name] + apart[1][name] + 1e-9).all())
    assert any(bool((together[n] < 0.99 * (apart[0][n] + apart[1][n])).any()) for n in together)


def test_timesteps_of_small_loss_are_dropped() -> None:
    assert contributing((900.0, 500.0, 100.0, 0.0), (0.01, 0.2, 0.5, 1.0)) == (500.0, 100.0, 0.0)
    assert contributing((3.0, 2.0, 1.0), (0.05, 1.0, 0.0501)) == (2.0, 1.0), "the threshold itself is not exceeded"
    assert contributing((3.0, 2.0, 1.0), (0.2, 1.0, 0.5), threshold=0.4) == (2.0, 1.0)
    assert contributing((2.0, 1.0), (1e-9, 1e-9)) == (2.0, 1.0), "losses count relative to the largest"


@pytest.mark.parametrize(("losses", "told"), [((1.0, float("nan")), r"at timesteps \[0.0\]"), ((0.0, 0.0), "zero")])
def test_losses_without_a_largest_are_refused(losses: tuple[float, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        contributing((5.0, 0.0), losses)


def test_losses_are_means_over_all_rows() -> None:
    """12 latents in calls of 8 and 4, guided: the small call counts less."""
    pipe, source = double_pipe(), tiny_source()
    losses = denoising_losses(pipe, source, PLAN.timesteps)
    with torch.no_grad():
        expected = [float(mean_loss(pipe.transformer, pipe, source, t)) for t in PLAN.timesteps]
    assert losses == pytest.approx(expected, rel=1e-12)
    assert len(set(losses)) == len(losses)


def test_dropped_timesteps_do_not_reach_the_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are made up, so that 0.03 of the largest falls below the threshold and 0.06 does not."""
    pipe = double_pipe()
    losses = (1.0, 0.03, 0.5, 0.06, 0.01, 0.2)
    monkeypatch.setattr("diff_es.calibration.collect.denoising_losses", lambda *_: losses)
    found = calibrate(pipe, tiny_source(), CONFIG).sets[0]
    kept = [PLAN.timesteps[i] for i in (0, 2, 3, 5)]
    expected = importance(pipe, tiny_source(), layers_of(pipe), kept)
    everything = importance(pipe, tiny_source(), layers_of(pipe), PLAN.timesteps)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not all(torch.equal(found[name], everything[name]) for name in expected)


def test_the_model_is_left_as_it_was() -> None:
    """Bits, parameter objects, requires_grad as mixed as it may be, gradients that were there, and hooks."""
    pipe = tiny_pipe()
    parameters = dict(pipe.transformer.named_parameters())
    for index, parameter in enumerate(parameters.values()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, index) if index % 2 else None
    before, bits = snapshot(pipe.transformer), {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        calibrate(pipe, tiny_source(), CONFIG)
        assert not torch.is_grad_enabled()
    assert same_state(pipe.transformer, before)
    for index, (name, parameter) in enumerate(parameters.items()):
        assert torch.equal(parameter, bits[name])
        assert parameter.requires_grad == (index % 3 != 0)
        assert (parameter.grad is None) if index % 2 == 0 else bool((parameter.grad == index).all())


def test_an_error_half_way_leaves_the_model_too() -> None:
    pipe = tiny_pipe()
    before = snapshot(pipe.transformer)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = pipe.transformer.proj_out_2.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        importance(pipe, tiny_source(), layers_of(pipe), PLAN.timesteps)
    handle.remove()
    assert same_state(pipe.transformer, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pipe.transformer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    """Equal to the same weights stored in float32, given the same inputs, also inside autocast."""
    half, full = tiny_pipe(), tiny_pipe()
    half.transformer.to(dtype)
    full.transformer.to(dtype).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = importance(half, tiny_source(), layers_of(half), PLAN.timesteps)
    expected = importance(full, Rounded(dtype), layers_of(full), PLAN.timesteps)
    assert half.transformer.dtype == dtype
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-8)


class Rounded:
    """The usual source, its latents rounded as a half-precision model gets them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def targets(self, pipe: Any, timestep: float) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for call, target in tiny_source().targets(pipe, timestep):
            yield {**call, "hidden_states": call["hidden_states"].to(self.dtype).float()}, target


def test_of_a_learned_variance_only_the_mean_counts() -> None:
    """A second half of output channels, as DiT-XL/2 has, changes nothing."""
    pipe = with_output_channels(8)
    source = tiny_source()
    with torch.no_grad():
        for call, target in source.targets(pipe, 0.0):
            assert pipe.transformer(**call).sample.shape[1] == 2 * target.shape[1]
    before = importance(pipe, source, layers_of(pipe), PLAN.timesteps)
    with torch.no_grad():
        # Patches of one pixel: the last four rows give the variance.
        pipe.transformer.proj_out_2.weight[4:].mul_(-7)
    after = importance(pipe, source, layers_of(pipe), PLAN.timesteps)
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        pipe.transformer.proj_out_2.weight[:4].mul_(-7)
    changed = importance(pipe, source, layers_of(pipe), PLAN.timesteps)
    assert not any(torch.equal(before[name], changed[name]) for name in before)


def test_other_numbers_of_output_channels_are_refused() -> None:
    source = tiny_source()
    list(source.calls(tiny_pipe(), PLAN, 0))  # the pipeline itself cannot sample with such a model
    with pytest.raises(InputError, match="gives 5 channels for latents of 4"):
        denoising_losses(with_output_channels(5), source, [0.0])


def with_output_channels(channels: int) -> DiTPipeline:
    pipe = tiny_pipe()
    config = {**pipe.transformer.config, "out_channels": channels}
    torch.manual_seed(0)
    pipe.transformer = type(pipe.transformer).from_config(config).eval()
    return pipe


def test_several_passes_give_the_same_bits() -> None:
    pipe = tiny_pipe()
    whole = calibrate(pipe, tiny_source(), CONFIG).sets[0]
    # A feed-forward of 16 × 64 and 64 × 16 with its biases is the largest layer.
    largest = 4 * (2 * 16 * 64 + 64 + 16)
    again = calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ("importance",), memory_limit=largest)).sets[0]
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(InputError, match=f"alone needs {largest}"):
        calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ("importance",), memory_limit=largest - 1))


def test_one_set_serves_every_stage_and_is_not_made_again(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    stats = calibrate(pipe, tiny_source(), CONFIG, tmp_path)
    assert stats.shared
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.json", "stage-00.safetensors"]
    untouched = Untouchable(lambda: pytest.fail("a finished set was made again"))
    again = calibrate(pipe, untouched, CONFIG, tmp_path)
    for layer in layers_of(pipe):
        first, second = stats.of(0, layer).importance, again.of(2, layer).importance
        assert first is not None
        assert second is not None
        assert list(first) == [*layer.inputs, *layer.outputs]
        assert all(torch.equal(first[path], second[path]) for path in first)


class Untouchable:
    """A source that must not be asked."""

    def __init__(self, complain: Callable[[], Any]) -> None:
        self.complain = complain

    def calls(self, pipe: Any, plan: StagePlan, stage: int | None) -> Iterator[dict[str, Any]]:
        return self.complain()  # type: ignore[no-any-return]

    def targets(self, pipe: Any, timestep: float) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return self.complain()  # type: ignore[no-any-return]


def test_a_source_without_targets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    source = SamplingSource(REQUESTS, SAMPLER)
    with pytest.raises(InputError, match=r"SamplingSource does not have; calibrate with `source: dataset`"):
        calibrate(tiny_pipe(), source, CONFIG, tmp_path / "calibration")
    assert not (tmp_path / "calibration").exists()
    assert not source._recorded, "the model was sampled for nothing"


def test_whole_run_statistics_are_collected_alone() -> None:
    with pytest.raises(InputError, match="each collected alone"):
        CalibrationConfig(PLAN, ("importance", "second_moment"))
    with pytest.raises(InputError, match="each collected alone"):
        CalibrationConfig(PLAN, ("importance", "step_weighted_moment"))
