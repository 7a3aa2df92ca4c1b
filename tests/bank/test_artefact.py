"""The artefact: one schedule with its weights, saved whole, loaded in another process, refused when damaged."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import ON_OPENING, poison
from diffusers import DDPMScheduler, DiTPipeline

from diff_es.bank import Bank, Pruned
from diff_es.calibration import CalibrationStats
from diff_es.denoisers import spec_of
from diff_es.errors import ArtifactError, InputError, UnsupportedModelError
from diff_es.routing import artefact, is_routed, load, remove_, routed
from diff_es.sampling import sample
from diff_es.schedule import PruningSchedule
from support import METHODS, REQUESTS, SAMPLER, tiny_bank, tiny_pipe, tiny_stats


@pytest.fixture(scope="module")
def stats() -> CalibrationStats:
    return tiny_stats(tiny_pipe())


@pytest.fixture
def pipe() -> DiTPipeline:
    return tiny_pipe()


def schedule_of(bank: Bank) -> PruningSchedule:
    """Dense layers, layers that are gone and layers in between, also within a stage."""
    top = bank.num_levels
    rows = ((0, top), (0, 0), (top, 0)) if bank.depth else ((0, 1, 2, 0), (top, 2, 3, top), (1, top, 0, 3))
    return PruningSchedule((1, 3, 2), bank.layers, rows, top)


def save(folder: Path, pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule | None = None) -> Pruned:
    return artefact.save(folder, pipe, bank, schedule or schedule_of(bank), sampler=SAMPLER, base_model="here")


ELSEWHERE = """
import sys
import numpy as np
from diffusers import DiTPipeline
from diff_es.routing import load
from diff_es.sampling import Requests, sample

folder, methods = sys.argv[1], sys.argv[2:]
for method in methods:
    pipe = DiTPipeline.from_pretrained(f"{folder}/model")
    pruned = load(f"{folder}/{method}", pipe)
    images = sample(pipe, Requests(tuple(range(2)), (100, 101)), pruned.info.sampler)
    np.save(f"{folder}/{method}.npy", images.numpy())
"""


def test_a_fresh_process_gives_the_same_bits(pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    expected = {}
    for method in METHODS:
        bank = tiny_bank(pipe, method, stats=stats)
        save(tmp_path / method, pipe, bank)
        with routed(pipe, bank, schedule_of(bank)):
            expected[method] = sample(pipe, REQUESTS, SAMPLER).numpy()
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), *METHODS], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for method in METHODS:
        assert np.array_equal(np.load(tmp_path / f"{method}.npy"), expected[method]), method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["resident", "stream", "gather"])
def test_loading_routes_like_the_bank(
    pipe: DiTPipeline, stats: CalibrationStats, method: str, mode: str, tmp_path: Path
) -> None:
    bank = tiny_bank(pipe, method, stats=stats)
    saved = save(tmp_path / "pruned", pipe, bank)
    dense = sample(pipe, REQUESTS, SAMPLER)
    with routed(pipe, bank, schedule_of(bank)):
        expected = sample(pipe, REQUESTS, SAMPLER)
    loaded = load(tmp_path / "pruned", pipe, mode=mode)  # type: ignore[arg-type]
    assert loaded.info == saved.info
    assert loaded.info.versions["torch"]
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), expected)
    remove_(pipe)
    assert torch.equal(sample(pipe, REQUESTS, SAMPLER), dense)


def test_only_the_schedules_own_levels_can_be_asked(pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path) -> None:
    pruned = save(tmp_path / "pruned", pipe, tiny_bank(pipe, "obs", stats=stats))
    layer = spec_of(pipe.transformer).layers(pipe.transformer, blocks=False)[1]
    assert len(pruned.thin(0, layer, 1).kept) == layer.num_groups * 3 // 4
    with pytest.raises(InputError, match=r"holds .*\.ff of stage 0 at level 1, not 2"):
        pruned.thin(0, layer, 2)


def test_a_dense_stage_takes_no_room(pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path) -> None:
    bank = tiny_bank(pipe, "obs", stats=stats)
    pruned = save(tmp_path / "pruned", pipe, bank, bank.uniform_allocation().resolve((2, 0, 2)))
    assert len(pruned.shards[1]) == 0
    assert len(pruned.shards[0]) > 0


@pytest.mark.parametrize(("damage", "message"), ON_OPENING)
def test_a_damaged_artefact_is_refused_and_the_model_untouched(
    pipe: DiTPipeline, stats: CalibrationStats, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pruned"
    save(folder, pipe, tiny_bank(pipe, "obs+intercept", stats=stats))
    damage(folder)
    with pytest.raises(ArtifactError, match=message):
        load(folder, pipe)
    assert not is_routed(pipe)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(
    pipe: DiTPipeline, stats: CalibrationStats, value: float, tmp_path: Path
) -> None:
    save(tmp_path / "pruned", pipe, tiny_bank(pipe, "obs", stats=stats))
    poison(tmp_path / "pruned", r"ff\.net\.2\.weight", value)
    with pytest.raises(ArtifactError, match=r"stage-01\.safetensors: .*weight holds NaN or infinity"):
        load(tmp_path / "pruned", pipe)
    assert not is_routed(pipe)


def test_a_dense_model_on_disk_is_found_from_everywhere(
    pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path would be taken for a Hub id elsewhere; a Hub id stays one."""
    bank = tiny_bank(pipe, "magnitude", stats=stats)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given, kept in (("models/mine", str(tmp_path / "models" / "mine")), ("models/hub-id", "models/hub-id")):
        folder = tmp_path / given.replace("/", "-")
        artefact.save(folder, pipe, bank, schedule_of(bank), sampler=SAMPLER, base_model=given)
        assert Pruned.open(folder).info.base_model == kept


def test_another_model_is_refused(stats: CalibrationStats, pipe: DiTPipeline, tmp_path: Path) -> None:
    save(tmp_path / "pruned", pipe, tiny_bank(pipe, "obs", stats=stats))
    stranger = tiny_pipe(seed=1)
    with pytest.raises(UnsupportedModelError, match="another model"):
        load(tmp_path / "pruned", stranger)
    assert not is_routed(stranger)


def test_another_scheduler_is_warned_of(
    stats: CalibrationStats, pipe: DiTPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "pruned", pipe, tiny_bank(pipe, "obs", stats=stats))
    with caplog.at_level(logging.WARNING, "diff_es"):
        load(tmp_path / "pruned", pipe)
        assert not caplog.records
        remove_(pipe)
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        load(tmp_path / "pruned", pipe)
    assert "searched for DDIMScheduler" in caplog.text
    assert "this pipeline has DDPMScheduler, whose 6 steps visit 830" in caplog.text


def test_a_sampler_that_was_not_searched_for_is_not_recorded(
    stats: CalibrationStats, pipe: DiTPipeline, tmp_path: Path
) -> None:
    bank = tiny_bank(pipe, "magnitude", stats=stats)
    said = r"made for steps that visit 830, .*; this pipeline's (DDIM|DDPM)Scheduler visits"
    with pytest.raises(InputError, match=said):
        sampler = replace(SAMPLER, num_inference_steps=2)
        artefact.save(tmp_path / "pruned", pipe, bank, schedule_of(bank), sampler=sampler, base_model="here")
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(InputError, match=said):
        save(tmp_path / "pruned", pipe, bank)
    assert not (tmp_path / "pruned").exists()


def test_an_existing_folder_is_never_overwritten(stats: CalibrationStats, pipe: DiTPipeline, tmp_path: Path) -> None:
    bank = tiny_bank(pipe, "obs", stats=stats)
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        save(tmp_path / "pruned", pipe, bank)
    assert [path.name for path in (tmp_path / "pruned").iterdir()] == ["mine.txt"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(stats: CalibrationStats, pipe: DiTPipeline, tmp_path: Path) -> None:
    bank = tiny_bank(pipe, "obs", stats=stats)
    with files_up_to(2000), pytest.raises(ArtifactError, match=r"Cannot write .*stage-00\.safetensors"):
        save(tmp_path / "pruned", pipe, bank)
    assert list(tmp_path.iterdir()) == []
    assert len(save(tmp_path / "pruned", pipe, bank).shards) == 3


def test_a_full_disk_leaves_a_bank_that_can_be_resumed(
    stats: CalibrationStats, pipe: DiTPipeline, tmp_path: Path
) -> None:
    with files_up_to(2000), pytest.raises(ArtifactError, match="Cannot write"):
        tiny_bank(pipe, "obs", stats=stats, folder=tmp_path / "bank")
    assert [item.name for item in (tmp_path / "bank").iterdir()] == ["settings.json"]
    tiny_bank(pipe, "obs", stats=stats, folder=tmp_path / "bank")
    Bank.open(tmp_path / "bank")
