"""Records survive the disk, NaN included, and refuse what cannot be."""

from __future__ import annotations

import dataclasses
import math
import platform
from importlib.metadata import version
from pathlib import Path

import diffusers
import pytest
import torch

from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import (
    Evaluation,
    LatencyRecord,
    Protocol,
    Samples,
    ScheduleEvaluation,
    environment,
)
from diff_es.sampling import SamplerConfig


def schedule(name: str, levels: tuple[int, ...] | None, ssim: float = 0.9) -> ScheduleEvaluation:
    latency = LatencyRecord(12.5, 12.0, 14.0, 20, 3, "CPU", 2)
    return ScheduleEvaluation(name, "how it came about", levels, ssim, 0.01, 0.93, 1.5, 10**12, 0.5, latency)


def evaluation(*schedules: ScheduleEvaluation) -> Evaluation:
    protocol = Protocol(
        model="tiny",
        scheduler="DDIMScheduler",
        sampling=SamplerConfig(20, 4.0),
        probes=Samples(16, 1000),
        images=Samples(100, 5000),
        reference_images=2000,
        latency_batch_size=8,
        metric_versions={"ssim": "torchmetrics 1"},
    )
    return Evaluation(schedules, protocol, environment(), "Same seeds for all; “fidelity to dense”.")


def test_an_evaluation_survives_the_disk(tmp_path: Path) -> None:
    before = evaluation(schedule("dense", None), schedule("uniform", (8, 8)))
    before.write(tmp_path / "evaluation.json")
    assert Evaluation.read(tmp_path / "evaluation.json") == before


def test_nan_survives_the_disk(tmp_path: Path) -> None:
    evaluation(schedule("dense", None), schedule("broken", (8, 8), ssim=math.nan)).write(tmp_path / "evaluation.json")
    assert math.isnan(Evaluation.read(tmp_path / "evaluation.json").schedules[1].ssim)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    evaluation(schedule("dense", None)).write(path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ArtifactError, match="format"):
        Evaluation.read(path)


def test_the_dense_model_is_the_one_without_levels() -> None:
    assert evaluation(schedule("uniform", (8,)), schedule("reference", None)).dense.name == "reference"


@pytest.mark.parametrize("levels", [[(8,), (4,)], [None, None]])
def test_there_is_exactly_one_dense_model(levels: list[tuple[int, ...] | None]) -> None:
    with pytest.raises(InputError, match="exactly one dense model"):
        evaluation(*(schedule(str(i), entry) for i, entry in enumerate(levels)))


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(InputError, match="a name twice"):
        evaluation(schedule("dense", None), schedule("dense", (1,)))


def test_samples_are_consecutive_seeds() -> None:
    assert list(Samples(3, 7).seeds) == [7, 8, 9]
    with pytest.raises(InputError, match=r"Samples\.count=0"):
        Samples(0, 0)


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule("dense", None).ssim = 1.0  # type: ignore[misc]


def test_the_environment_is_this_one() -> None:
    here = environment(torch.device("cpu"))
    assert here.python == platform.python_version()
    assert here.packages["torch"] == torch.__version__
    assert here.packages["diffusers"] == diffusers.__version__
    assert here.packages["diff-es"] == version("diff-es")
    assert here.threads == torch.get_num_threads()
    assert here.device == here.cpu
    assert here.cpu_count >= 1
