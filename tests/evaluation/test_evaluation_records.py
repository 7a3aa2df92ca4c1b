"""Records survive the disk, NaN included, and refuse what cannot be."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import diffusers
import pytest
import torch

from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import (
    Cost,
    Evaluation,
    LatencyEntry,
    LatencyRecord,
    Measurement,
    Protocol,
    Samples,
    ScheduleEvaluation,
    environment,
)
from diff_es.sampling import SamplerConfig

SAMPLER = SamplerConfig(20, 4.0)


def measurement(metric: str, value: float, interval: tuple[float, float] | None = None) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        higher_is_better=metric == "ssim",
        computed_by="torchmetrics 1",
        samples=Samples(100, 5000),
        sampling=SAMPLER,
        device="cpu",
        weights="ab12" if metric == "fid" else "",
        reference="dense",
        interval=interval,
    )


def schedule(name: str, levels: tuple[int, ...] | None, ssim: float = 0.9, **changes: object) -> ScheduleEvaluation:
    latency = LatencyRecord(12.5, 12.0, 14.0, 20, 3, "CPU", 2)
    cost = Cost(10**12, 0.5, 10**8, (10**7, 10**8), (LatencyEntry(8, "denoiser", latency),))
    quality = (measurement("ssim", ssim, (ssim - 0.1, ssim + 0.1)), measurement("fid", 21.5))
    made = ScheduleEvaluation(name, "how it came about", levels, quality, cost)
    return dataclasses.replace(made, **changes)


def evaluation(*schedules: ScheduleEvaluation) -> Evaluation:
    text = "Same seeds for all; “fidelity to dense”."
    return Evaluation(schedules, Protocol("fidelity", "tiny", "DDIMScheduler", SAMPLER, text), environment())


def test_an_evaluation_survives_the_disk(tmp_path: Path) -> None:
    before = evaluation(schedule("dense", None), schedule("uniform", (8, 8)))
    before.write(tmp_path / "evaluation.json")
    after = Evaluation.read(tmp_path / "evaluation.json")
    assert after == before
    assert after.schedules[1].quality[0].interval == (0.8, 1.0)
    assert after.schedules[1].quality[1].interval is None
    assert after.schedules[1].cost.latency_of(8, "denoiser").median_ms == 12.5


def test_nan_survives_the_disk(tmp_path: Path) -> None:
    evaluation(schedule("dense", None), schedule("broken", (8, 8), ssim=math.nan)).write(tmp_path / "evaluation.json")
    broken = Evaluation.read(tmp_path / "evaluation.json").schedules[1].quality[0]
    assert math.isnan(broken.value)
    assert broken.interval is not None and all(map(math.isnan, broken.interval))


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_refused(tmp_path: Path, other: int) -> None:
    path = tmp_path / "evaluation.json"
    evaluation(schedule("dense", None)).write(path)
    content = json.loads(path.read_text())
    assert content["format"] == 2
    path.write_text(json.dumps({**content, "format": other}))
    with pytest.raises(ArtifactError, match="format"):
        Evaluation.read(path)


def test_a_record_that_does_not_say_the_mode_of_its_latencies_is_read(tmp_path: Path) -> None:
    """Before it was written down, all were measured in mode resident."""
    path, before = tmp_path / "evaluation.json", evaluation(schedule("dense", None), schedule("uniform", (8, 8)))
    before.write(path)
    content = json.loads(path.read_text())
    for row in content["schedules"]:
        assert row["cost"].pop("latency_mode") is None
    path.write_text(json.dumps(content))
    assert Evaluation.read(path) == before


def test_the_dense_model_is_the_one_without_levels() -> None:
    assert evaluation(schedule("uniform", (8,)), schedule("reference", None)).dense.name == "reference"


@pytest.mark.parametrize("levels", [[(8,), (4,)], [None, None]])
def test_there_is_exactly_one_dense_model(levels: list[tuple[int, ...] | None]) -> None:
    with pytest.raises(InputError, match="exactly one dense model"):
        evaluation(*(schedule(str(i), entry) for i, entry in enumerate(levels)))


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(InputError, match="a name twice"):
        evaluation(schedule("dense", None), schedule("dense", (1,)))


def test_all_have_the_same_metrics_in_the_same_order() -> None:
    """A table of them has one column per metric."""
    dense = schedule("dense", None)
    for quality in (dense.quality[:1], dense.quality[::-1], ()):
        with pytest.raises(InputError, match="must all have the same metrics"):
            evaluation(dense, schedule("uniform", (8,), quality=quality))


def test_a_metric_is_found_by_its_name() -> None:
    own = schedule("dense", None, ssim=0.75)
    assert (own.value("ssim"), own.value("fid"), own.value("psnr")) == (0.75, 21.5, None)


def test_samples_are_consecutive_seeds() -> None:
    assert list(Samples(3, 7).seeds) == [7, 8, 9]
    with pytest.raises(InputError, match=r"Samples\.count=0"):
        Samples(0, 0)


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        measurement("ssim", 0.5).value = 1.0  # type: ignore[misc]


def test_the_environment_is_this_one() -> None:
    here = environment(torch.device("cpu"))
    assert here.python == platform.python_version()
    # torch itself adds what it was built for ("+cu130"), which PyPI's packages do not have in their version.
    assert torch.__version__.partition("+")[0] == here.packages["torch"].partition("+")[0]
    assert here.packages["diffusers"] == diffusers.__version__
    assert here.packages["diff-es"] == version("diff-es")
    assert here.threads == torch.get_num_threads()
    assert here.device == here.cpu
    assert here.cpu_count >= 1
