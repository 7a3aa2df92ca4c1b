"""Folders remember what their files depend on; equal levels are stored once; forged layers are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from diff_es.artifacts import read_record
from diff_es.bank import Bank, BankInfo, ThinLayer
from diff_es.calibration import CalibrationConfig, CalibrationStats, calibrate
from diff_es.denoisers import denoiser_of, spec_of
from diff_es.errors import ArtifactError, InputError
from diff_es.fitness import TrajectoryFitness
from diff_es.routing.slots import dense_parameters, layer_values
from support import HEADS, METHODS, PLAN, REQUESTS, SAMPLER, tiny_bank, tiny_pipe, tiny_source, tiny_stats


def test_a_bank_folder_is_not_filled_up_with_another_pruner(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    tiny_bank(pipe, "obs", folder=tmp_path / "bank")
    (tmp_path / "bank" / "manifest.json").unlink()
    with pytest.raises(InputError, match="other settings"):
        tiny_bank(pipe, "wanda", folder=tmp_path / "bank")
    assert tiny_bank(pipe, "obs", folder=tmp_path / "bank").info.method == "obs"


@pytest.mark.parametrize("method", METHODS)
def test_a_bank_folder_is_not_taken_for_one_of_other_statistics(method: str, tmp_path: Path) -> None:
    pipe = tiny_pipe()
    stats, other = tiny_stats(pipe), calibrate(pipe, tiny_source(11), CalibrationConfig(PLAN))
    calibrate(pipe, tiny_source(), CalibrationConfig(PLAN), tmp_path / "statistics")
    read = CalibrationStats.open(tmp_path / "statistics", PLAN.num_stages, shared=False)
    bank = tiny_bank(pipe, method, stats=stats, folder=tmp_path / "bank")
    for same in (stats, read):
        assert tiny_bank(pipe, method, stats=same, folder=tmp_path / "bank").info == bank.info
    if method == "magnitude":  # it reads none
        assert tiny_bank(pipe, method, stats=other, folder=tmp_path / "bank").info == bank.info
        return
    for lost in ((), ("manifest.json", "stage-01.safetensors")):
        for name in lost:
            (tmp_path / "bank" / name).unlink()
        with pytest.raises(InputError, match="bank was made with other settings"):
            tiny_bank(pipe, method, stats=other, folder=tmp_path / "bank")


def test_a_bank_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """It does not say what statistics it is of."""
    pipe = tiny_pipe()
    stats = tiny_stats(pipe)
    bank = tiny_bank(pipe, "obs", stats=stats, folder=tmp_path)
    digest = bank.info.settings["statistics"]
    for name in ("manifest.json", "settings.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace(f',\n    "statistics": "{digest}"', ""))
    old = read_record(tmp_path / "settings.json", BankInfo)
    assert old.settings == {"damping": 0.01, "intercept": False}
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "stage-01.safetensors").unlink()
    assert tiny_bank(pipe, "obs", stats=stats, folder=tmp_path).info.settings == old.settings
    assert Bank.open(tmp_path).info.settings == old.settings
    with pytest.raises(InputError, match="other settings"):
        tiny_bank(pipe, "wanda", stats=stats, folder=tmp_path)


def test_calibration_and_bank_do_not_share_a_folder(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    calibrate(pipe, tiny_source(), CalibrationConfig(PLAN), tmp_path)
    with pytest.raises(InputError, match="other settings"):
        calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, shared=True), tmp_path)
    with pytest.raises(InputError, match="other settings"):
        tiny_bank(pipe, "obs", folder=tmp_path)


def test_files_of_unknown_origin_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "stage-00.safetensors").write_bytes(b"something")
    with pytest.raises(InputError, match="unknown settings"):
        tiny_bank(tiny_pipe(), "obs", folder=tmp_path)


@pytest.mark.parametrize("method", ["obs", "obs+intercept", "wanda"])
def test_levels_that_remove_as_much_are_stored_once_and_read_alike(method: str) -> None:
    pipe = tiny_pipe()
    stats = tiny_stats(pipe)
    coarse, fine = (tiny_bank(pipe, method, levels, stats=stats) for levels in (HEADS, 4 * HEADS))
    attention = spec_of(denoiser_of(pipe)).width_layers(denoiser_of(pipe))[0]
    assert attention.kind == "attention"
    stored = [key for key in fine.shards[0] if key.startswith(attention.name) and key.endswith(".weight")]
    assert len(stored) == (HEADS if method.startswith("obs") else 0)
    for level in range(1, 4 * HEADS + 1):
        removed = (2 * level + 4) // 8  # of 4 heads, with H = 16
        thin = fine.thin(1, attention, level)
        if removed == 0:
            assert not thin.outputs
            assert thin.kept.tolist() == list(range(HEADS))
            continue
        same = coarse.thin(1, attention, removed)
        assert torch.equal(thin.kept, same.kept)
        assert thin.outputs.keys() == same.outputs.keys()
        assert all(torch.equal(tensor, same.outputs[name]) for name, tensor in thin.outputs.items())


@pytest.mark.parametrize(
    "kept",
    [torch.tensor([-1, 0]), torch.tensor([0, HEADS]), torch.tensor([1, 1]), torch.tensor([2, 1]), torch.tensor([0.0])],
)
def test_impossible_groups_are_refused(kept: torch.Tensor) -> None:
    denoiser = denoiser_of(tiny_pipe())
    layer = spec_of(denoiser).width_layers(denoiser)[0]
    with pytest.raises(ArtifactError, match=layer.name):
        layer_values(denoiser, layer, dense_parameters(denoiser, layer), ThinLayer(kept))


def test_impossible_shapes_are_refused() -> None:
    pipe = tiny_pipe()
    denoiser = denoiser_of(pipe)
    layer = spec_of(denoiser).width_layers(denoiser)[0]
    thin = tiny_bank(pipe, "obs+intercept").thin(0, layer, 1)
    assert set(thin.outputs) == {f"{layer.outputs[0]}.{part}" for part in ("weight", "bias")}
    for name, tensor in thin.outputs.items():
        shorter = tensor[:, 1:] if name.endswith("weight") else tensor[1:]
        forged = replace(thin, outputs={**thin.outputs, name: shorter})
        with pytest.raises(ArtifactError, match=rf"{name} has shape"):
            layer_values(denoiser, layer, dense_parameters(denoiser, layer), forged)


def test_fitness_refuses_a_sampler_that_visits_other_timesteps() -> None:
    pipe = tiny_pipe()
    bank: Bank = tiny_bank(pipe, "magnitude")
    allocation = bank.uniform_allocation()
    TrajectoryFitness(pipe, bank, REQUESTS, allocation, sampler=SAMPLER)
    with pytest.raises(InputError, match="other timesteps"):
        TrajectoryFitness(pipe, bank, REQUESTS, allocation, sampler=replace(SAMPLER, num_inference_steps=7))
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    with pytest.raises(InputError, match="EulerDiscreteScheduler"):
        TrajectoryFitness(pipe, bank, REQUESTS, allocation, sampler=SAMPLER)
