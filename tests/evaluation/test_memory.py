"""Counted tensors against closed forms, measured memory against known allocations. Weights are random."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diff_es.bank import Bank
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import memory
from diff_es.evaluation.memory import MemoryTask, Setting, compare_memory, live_tensor_bytes, measure_memory
from diff_es.routing import Router, routed, save
from diff_es.schedule import PruningSchedule
from support import PLAN, SAMPLER, mixed_levels, tiny_bank, tiny_pipe, tiny_stats

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the resident set is read from Linux's /proc")

MIB = 2**20


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def folder(pipe: DiTPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a bank, and an artefact."""
    path = tmp_path_factory.mktemp("memory")
    pipe.save_pretrained(path / "model")
    bank = tiny_bank(pipe, "obs", stats=tiny_stats(pipe), folder=path / "bank")
    save(path / "pruned", pipe, bank, mixed(bank), sampler=SAMPLER, base_model="tiny")
    return path


def mixed(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


def task(
    folder: Path, setting: Setting, weights: str = "pruned", schedule: PruningSchedule | None = None
) -> MemoryTask:
    return MemoryTask(str(folder / "model"), setting, str(folder / weights), schedule, SAMPLER, 2)


def tensor_bytes(*modules: nn.Module) -> int:
    return sum(t.nbytes for module in modules for t in (*module.parameters(), *module.buffers()))


def test_live_tensors_are_counted_once_and_views_for_what_they_show() -> None:
    before = live_tensor_bytes()
    memory_of_all = np.zeros(1000)
    whole, row = torch.from_numpy(memory_of_all), torch.from_numpy(memory_of_all[:10])
    same = whole.view(10, 100)
    assert live_tensor_bytes() - before == 8000
    del whole, same
    assert live_tensor_bytes() - before == 80
    half, nothing = torch.zeros(7, dtype=torch.float16), torch.zeros(0, 5)
    elsewhere = torch.zeros(10, device="meta")
    with FakeTensorMode():
        traced = torch.zeros(10)  # what compilation leaves behind
    assert live_tensor_bytes() - before == 80 + 14
    del row, half, nothing, elsewhere, traced
    assert live_tensor_bytes() == before


def test_the_union_of_intervals_equals_a_brute_force_count() -> None:
    draw = random.Random(0)
    for _ in range(200):
        starts = [draw.randrange(50) for _ in range(draw.randrange(8))]
        spans = [(start, start + draw.randrange(1, 12)) for start in starts]
        wanted = len({address for start, end in spans for address in range(start, end)})
        assert memory._covered(sorted(spans)) == wanted


#: Prints growth in MiB: 64 held, 128 more come and gone, peak, peak after a reset. A process that has lived for a while
#: hands out memory that it freed before, so this needs a fresh one, as the measurement itself does.
_GAUGED = """
import mmap
from diff_es.evaluation.memory import ResidentGauge
gauge = ResidentGauge()
gauge.reset_peak()
before = gauge.now()

def take(mebibytes):
    memory = mmap.mmap(-1, mebibytes * 2**20)
    for page in range(0, len(memory), mmap.PAGESIZE):
        memory[page] = 1
    return memory

kept = take(64)
held = gauge.now()
take(128).close()
passed, peak = gauge.now(), gauge.peak()
gauge.reset_peak()
print(*((value - before) / 2**20 for value in (held, passed, peak, gauge.peak())))
"""


@linux
def test_the_gauge_sees_what_is_allocated_and_what_was() -> None:
    printed = subprocess.run([sys.executable, "-c", _GAUGED], capture_output=True, text=True, check=True).stdout
    growth = [float(value) for value in printed.split()]
    assert growth == pytest.approx([64, 64, 192, 64], abs=8)


def test_a_gpu_is_asked_by_its_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    for name in ("memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: asked.append(device) or 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "_load", lambda task: tiny_pipe())
    memory._measure_here(replace(task(folder, "dense"), device="cuda:1"))
    assert asked == [torch.device("cuda:1")] * 4


#: On a CPU there is nothing to stream from.
ON_CPU = [setting for setting in get_args(Setting) if setting != "stream"]


@pytest.mark.parametrize("setting", ON_CPU)
def test_tensors_of_each_setting_have_closed_forms(pipe: DiTPipeline, folder: Path, setting: Setting) -> None:
    """Dense and thin weights (resident: of all stages; gather: of the largest), or a whole model per stage."""
    bank = Bank.open(folder / "bank")
    router = Router(pipe.transformer, bank)
    router.set_schedule(mixed(bank))
    dense = {id(parameter) for parameter in pipe.transformer.parameters()}
    thin, models = [], []
    for stage in range(PLAN.num_stages):
        router.point_at(stage)
        thin.append(sum(p.nbytes for p in pipe.transformer.parameters() if id(p) not in dense))
        models.append(tensor_bytes(pipe.transformer))
    router.point_at(None)
    del router
    extra = {"dense": 0, "resident": sum(thin), "gather": max(thin)}
    denoiser = sum(models) if setting == "stitched" else tensor_bytes(pipe.transformer) + extra[setting]

    before = live_tensor_bytes()
    loaded = memory._load(task(folder, setting))
    found = live_tensor_bytes() - before
    scheduler = sum(value.nbytes for value in vars(loaded.scheduler).values() if torch.is_tensor(value))
    assert found == denoiser + tensor_bytes(pipe.vae) + scheduler


@linux
def test_a_routed_model_keeps_no_file_mapped(pipe: DiTPipeline, folder: Path) -> None:
    """Each kept view of a mapped bank would count the whole of it in the resident set."""
    bank = Bank.open(folder / "bank")
    shard = bank.shards[0]
    name = next(name for name in shard if name.endswith(".weight"))
    view = shard[name]
    assert str(folder) in Path("/proc/self/maps").read_text()
    del view
    with routed(pipe, bank, mixed(bank)):
        assert str(folder / "bank") not in Path("/proc/self/maps").read_text()


@linux
def test_a_fresh_process_measures_and_answers(folder: Path) -> None:
    record = measure_memory(task(folder, "gather"))
    assert 0 < record.tensor_bytes < 3 * MIB
    assert record.peak_bytes > record.loading_bytes > 0
    assert (record.device, record.how) == ("cpu", "resident set of a process of its own (Linux)")


def test_an_error_of_the_process_is_raised_here(folder: Path) -> None:
    with pytest.raises(InputError, match="a bank has no schedule of its own"):
        measure_memory(task(folder, "resident", weights="bank"))


def test_a_model_that_is_none_is_refused_as_everywhere(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded as a diffusers pipeline"):
        measure_memory(replace(task(folder, "dense"), model=str(folder / "bank")))


@linux
@pytest.mark.slow
def test_all_settings_side_by_side(folder: Path) -> None:
    bank = Bank.open(folder / "bank")
    records = compare_memory(str(folder / "model"), folder / "bank", mixed(bank), 2, sampler=SAMPLER, device="cpu")
    assert set(records) == set(ON_CPU)
    tensors = {setting: record.tensor_bytes for setting, record in records.items()}
    assert tensors["dense"] < tensors["gather"] < tensors["resident"] < tensors["stitched"]


def test_a_dead_process_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROGRAM", "import sys; sys.exit('out of memory')")
    with pytest.raises(ArtifactError, match="'dense' ended with 1: out of memory"):
        measure_memory(task(folder, "dense"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"batch_size": 0}, "batch_size=0"), ({"device": "tpu"}, "device='tpu'")],
)
def test_impossible_tasks_are_refused(folder: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MemoryTask("zoo:fashion-dit", "dense", str(folder), None, SAMPLER, **wrong)
