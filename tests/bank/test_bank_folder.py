"""A bank on disk: the same as in memory, resumed where it stopped, refused when it is not whole."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from damage import ON_OPENING, SHARD, poison
from diffusers import DiTPipeline
from torch import Tensor

from diff_es.bank import Bank, Pruned
from diff_es.calibration import CalibrationConfig, CalibrationStats, calibrate
from diff_es.denoisers import spec_of
from diff_es.errors import ArtifactError, InputError
from diff_es.pruning import BankConfig, build_bank
from diff_es.pruning.build import prune_stage
from diff_es.pruning.trajectory import LayerTrajectory
from diff_es.recipe import Recipe
from diff_es.routing import save
from diff_es.run import compress
from support import METHODS, PLAN, SAMPLER, tiny_bank, tiny_pipe, tiny_source, tiny_stats


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def stats(pipe: DiTPipeline) -> CalibrationStats:
    return tiny_stats(pipe)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_folders_may_be_given_as_text(pipe: DiTPipeline, tmp_path: Path) -> None:
    bank, pruned, recipe = (str(tmp_path / name) for name in ("bank", "pruned", "recipe.yaml"))
    config = CalibrationConfig(PLAN, collect=("input_norms",))
    stats = calibrate(pipe, tiny_source(), config, str(tmp_path / "calibration"))
    build_bank(pipe, stats, PLAN, BankConfig("magnitude", 2), bank)
    opened = Bank.open(bank)
    schedule = opened.uniform_allocation().resolve((0, 1, 2))
    save(pruned, pipe, opened, schedule, sampler=SAMPLER, base_model="tiny")
    assert Pruned.open(pruned).info.schedule == schedule
    Path(recipe).write_text("model: tiny")
    with pytest.raises(InputError, match=r"recipe\.yaml is a file"):
        compress(Recipe.read(recipe), recipe)


@pytest.mark.parametrize("method", METHODS)
def test_an_opened_bank_equals_the_one_in_memory(
    pipe: DiTPipeline, stats: CalibrationStats, method: str, tmp_path: Path
) -> None:
    memory = tiny_bank(pipe, method, stats=stats)
    written = tiny_bank(pipe, method, stats=stats, folder=tmp_path / "bank")
    opened = Bank.open(tmp_path / "bank")
    assert opened.info == written.info
    assert opened.uniform_allocation() == memory.uniform_allocation()
    for stage in range(PLAN.num_stages):
        for layer in spec_of(pipe.transformer).layers(pipe.transformer, blocks=opened.depth):
            for level in range(1, opened.num_levels + 1):
                first, second = memory.thin(stage, layer, level), opened.thin(stage, layer, level)
                assert torch.equal(first.kept, second.kept)
                assert first.outputs.keys() == second.outputs.keys()
                for name, tensor in first.outputs.items():
                    assert torch.equal(tensor, second.outputs[name])
                    assert tensor.dtype == second.outputs[name].dtype


class Counting(Mapping[str, Tensor]):
    """Statistics that note how many trajectories are alive whenever one of their tensors is read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.alive: set[int] = set()

    def __getitem__(self, name: str) -> Tensor:
        gc.collect()
        self.alive.add(sum(isinstance(found, LayerTrajectory) for found in gc.get_objects()))
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.usefixtures("only_new_objects")
def test_a_layer_is_freed_before_the_next_is_solved(pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path) -> None:
    counting = Counting(stats.sets[1])
    prune_stage(pipe, CalibrationStats((counting,), 3), BankConfig("obs", 4), 0, tmp_path)
    assert counting.alive == {0}


@pytest.mark.parametrize("method", METHODS)
def test_one_stage_alone_is_the_same(pipe: DiTPipeline, stats: CalibrationStats, method: str, tmp_path: Path) -> None:
    bank = tiny_bank(pipe, method, stats=stats)
    name, _, intercept = method.partition("+")
    config = BankConfig(name, bank.num_levels, intercept=bool(intercept))
    written = prune_stage(pipe, stats, config, 2, tmp_path)
    assert list(files(tmp_path)) == ["stage-02.safetensors"]
    assert set(written) == set(bank.shards[2])
    assert all(torch.equal(written[key], tensor) for key, tensor in bank.shards[2].items())


def test_a_shared_bank_is_one_shard(pipe: DiTPipeline, tmp_path: Path) -> None:
    tiny_bank(pipe, "obs", stats=tiny_stats(pipe, shared=True), folder=tmp_path)
    assert sorted(files(tmp_path)) == ["manifest.json", "settings.json", "stage-00.safetensors"]
    assert Bank.open(tmp_path).info.shared


@pytest.mark.parametrize("method", METHODS)
def test_a_half_built_folder_is_resumed_to_the_same_files(
    pipe: DiTPipeline, stats: CalibrationStats, method: str, tmp_path: Path
) -> None:
    tiny_bank(pipe, method, stats=stats, folder=tmp_path)
    whole = files(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "manifest.json").unlink()
    (tmp_path / SHARD).unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it is incomplete"):
        Bank.open(tmp_path)
    tiny_bank(pipe, method, stats=stats, folder=tmp_path)
    assert files(tmp_path) == whole
    kept = [path for path in tmp_path.iterdir() if path.stat().st_mtime_ns == times[path.name]]
    assert sorted(path.name for path in kept) == ["settings.json", "stage-00.safetensors", "stage-02.safetensors"]


@pytest.mark.parametrize(("damage", "message"), ON_OPENING)
def test_a_damaged_bank_is_refused(
    pipe: DiTPipeline, stats: CalibrationStats, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "bank"
    tiny_bank(pipe, "obs+intercept", stats=stats, folder=folder)
    damage(folder)
    with pytest.raises(ArtifactError, match=message):
        Bank.open(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_values_that_are_no_numbers_are_found_when_read(
    pipe: DiTPipeline, stats: CalibrationStats, part: str, value: float, tmp_path: Path
) -> None:
    tiny_bank(pipe, "obs+intercept", stats=stats, folder=tmp_path)
    name = poison(tmp_path, rf"level-002/.*\.{part}", value)
    bank = Bank.open(tmp_path)
    layers = {layer.name: layer for layer in spec_of(pipe.transformer).layers(pipe.transformer, blocks=False)}
    with pytest.raises(ArtifactError, match=r"stage-01\.safetensors: .* holds NaN or infinity"):
        bank.thin(1, layers[name.split("/")[0]], 2)
    assert bank.thin(0, layers[name.split("/")[0]], 2).outputs


def test_what_a_bank_takes_is_said_first(
    pipe: DiTPipeline, stats: CalibrationStats, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.INFO, "diff_es"):
        bank = tiny_bank(pipe, "obs", stats=stats, folder=tmp_path)
        (line,) = caplog.messages
        found = re.fullmatch(r"Bank of 3 stages, 4 layers each: (\d+) KiB stored, about 0 s of solving\.", line)
        assert found is not None, line
        assert int(found[1]) == round(sum(tensor.nbytes for shard in bank.shards for tensor in shard.values()) / 2**10)
        caplog.clear()
        tiny_bank(pipe, "obs", stats=stats, folder=tmp_path)
        assert caplog.messages == [], "all stages are there"
        (tmp_path / "stage-01.safetensors").unlink()
        tiny_bank(pipe, "obs", stats=stats, folder=tmp_path)
        assert caplog.messages[0].startswith("Bank of 1 stage, ")
