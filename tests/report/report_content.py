"""Small but complete reports: one of a run, one of a re-created table, both with a schedule that is hostile by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diff_es.evaluation import Evaluation, LatencyRecord, Protocol, Samples, ScheduleEvaluation, environment
from diff_es.evaluation.cost import Cost, LatencyEntry
from diff_es.evaluation.records import Measurement
from diff_es.report import (
    Claim,
    FitnessPoint,
    Gallery,
    Plot,
    PlotPoint,
    Provenance,
    ReportContent,
    Series,
    TableColumn,
    TableReport,
    TableRow,
    Value,
    WorstCase,
)
from diff_es.report.metric_names import metric_name
from diff_es.sampling import SamplerConfig
from diff_es.schedule import Allocation, PruningSchedule

HOSTILE = '"><script>alert(1)</script>../$x_1$'
SAMPLER = SamplerConfig(20, 4.0)
LAYERS = ("blocks.0.attn", "blocks.0.ff", "blocks.1.attn", "blocks.1.ff")
UNIFORM = Allocation.uniform(LAYERS, 3, 8).resolve((4, 4, 4))
MIXED = PruningSchedule((2, 4, 6), LAYERS, ((0, 4, 2, 2), (4, 4, 4, 4), (8, 4, 6, 6)), 8)
DIGEST = "0123456789abcdef" * 4


def metric_column(metric: str, paper_title: str = "") -> TableColumn:
    """The column of a table for a metric, keyed by its name."""
    name = metric_name(metric)
    return TableColumn(metric, name.title, name.higher_is_better, name.form, name.unit, paper_title)


def measurement(metric: str, value: float, *, higher: bool, interval: tuple[float, float] | None = None) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        higher_is_better=higher,
        computed_by="torchmetrics 1.9.0",
        samples=Samples(16, 4_001_000_000),
        sampling=SAMPLER,
        device="a CPU",
        weights=DIGEST if metric.startswith("classifier") else "",
        reference="dense",
        interval=interval,
    )


def record(median_ms: float) -> LatencyRecord:
    return LatencyRecord(median_ms, 0.9 * median_ms, 1.1 * median_ms, 20, 3, "a CPU", 2)


def schedule(
    name: str,
    levels: tuple[int, ...] | None,
    ssim: float,
    latency_ms: float | dict[int, float],
    extra: tuple[Measurement, ...] = (),
) -> ScheduleEvaluation:
    times = latency_ms if isinstance(latency_ms, dict) else {8: latency_ms}
    dense = levels is None
    entries = [LatencyEntry(batch, "pipeline", record(time)) for batch, time in times.items()]
    entries += [LatencyEntry(batch, "denoiser", record(time / 25)) for batch, time in times.items()]
    used = () if levels is None else tuple(1000 - 100 * level for level in levels)
    quality = (
        measurement("ssim", ssim, higher=True, interval=(ssim - 0.02, ssim + 0.01)),
        measurement("latent_mse", 1 - ssim, higher=False),
        *extra,
    )
    cost = Cost(2 * 10**9 if dense else 10**9, 1.0 if dense else 0.5, 1000, used, tuple(entries))
    cost = replace(cost, latency_mode=None if dense else "stream")
    return ScheduleEvaluation(name, f"how {name} came about", levels, quality, cost)


def protocol() -> Protocol:
    return Protocol("tiny", "tiny-dit", "DDIMScheduler", SAMPLER, "Same seeds & sampler for all.")


def evaluation(*schedules: ScheduleEvaluation) -> Evaluation:
    return Evaluation(schedules, protocol(), environment())


def pictures(seed: int, count: int = 12, side: int = 16) -> NDArray[Any]:
    """Smooth coloured blobs, so that a screenshot shows something; float in [0, 1]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    centres, colours = generator.random((count, 2)), generator.random((count, 3))
    distance = (y[None] - centres[:, :1, None]) ** 2 + (x[None] - centres[:, 1:, None]) ** 2
    images: NDArray[Any] = np.exp(-8 * distance)[..., None] * colours[:, None, None, :]
    return images


def small_gallery(*names: str) -> Gallery:
    images: dict[str, NDArray[Any]] = {name: pictures(index) for index, name in enumerate(("dense", *names))}
    broken = pictures(7).astype(np.float32)
    broken[3, 0, 0, 0] = np.nan
    images[names[-1]] = broken
    worst = tuple(WorstCase(1000 + i, 0.2 + 0.1 * i, pictures(i)[0], pictures(i + 1)[0], "a shoe") for i in range(3))
    labels = tuple(f"class {i}" for i in range(12))
    return Gallery(images, labels, tuple(range(1000, 1012)), {names[-1]: worst})


def provenance() -> Provenance:
    return Provenance(
        command="diff-es run 'a & b.yaml'",
        recipe="name: <b>bold</b>\n" + "a_long_key: " + "long " * 40 + "\n",
        notes=("Measured on <a href='https://example.org'>a machine</a>.",),
        licences={"tiny-dit": "Apache-2.0", "topiq": "PolyForm Noncommercial 1.0.0:\nnot for commercial use"},
        checksums={"pruned/weights.safetensors": DIGEST},
    )


def classifier(value: float) -> tuple[Measurement, ...]:
    return (
        measurement("label_agreement", 0.9, higher=True, interval=(0.87, 0.93)),
        measurement("classifier_frechet", value, higher=False, interval=(value - 0.3, value + 0.4)),
        measurement("my_own_metric", value / 7, higher=True),
    )


def small_content() -> ReportContent:
    return ReportContent(
        title="A <small> run",
        evaluation=evaluation(
            schedule("dense", None, 1.0, {1: 5.0, 8: 20.0}, classifier(2.0)),
            schedule("uniform", (4, 4, 4), 0.7, {1: 5.5, 8: 16.0}, classifier(7.0)),
            schedule(HOSTILE, (2, 4, 6), 0.9, {1: 6.0, 8: 25.0}, classifier(9.0)),
        ),
        schedules={"uniform": UNIFORM, HOSTILE: MIXED},
        history={HOSTILE: tuple(FitnessPoint(i, 0.8 + 0.01 * i, 0.75, 0.7) for i in range(3))},
        gallery=small_gallery("uniform", HOSTILE),
        provenance=provenance(),
    )


def claim(ours: tuple[float, float], interval: tuple[float, float] | None, **changes: Any) -> Claim:
    """Diff-ES against MosaicDiff by a distance: lower is better."""
    return Claim(
        sentence="With OBS at 50 %, Diff-ES has a lower distance than MosaicDiff.",
        better="Diff-ES",
        worse="MosaicDiff",
        metric="Fréchet distance on classifier features",
        ours=ours,
        higher_is_better=False,
        interval=interval,
        paper=(12.86, 22.29),
        paper_metric="FID",
        **changes,
    )


def table_rows() -> tuple[TableRow, ...]:
    rows = [TableRow("dense", {"classifier_frechet": Value(0.4, None, 4.49), "macs": Value(1.0)}, is_reference=True)]
    for group, shift in (("OBS, 31.25 %", 0.0), ("OBS, 50 %", 2.0)):
        for name, value in (("MosaicDiff", 2.0 + shift), ("Diff-ES", 1.0 + shift), (HOSTILE, 0.8 + shift)):
            values = {
                "classifier_frechet": Value(value, (value - 0.4, value + 0.3), 10 * value, "3 seeds"),
                "macs": Value(0.5),
            }
            rows.append(TableRow(name, values, group, f"how {name} came about"))
    return tuple(rows)


def small_table() -> TableReport:
    lines = tuple(
        Series(name, tuple(PlotPoint(x, 3 + x / 20 + shift, (2 + shift, 5 + shift)) for x in (31.25, 43.75, 50.0)))
        for name, shift in (("MosaicDiff", 1.0), (HOSTILE, 0.0))
    )
    bars = (
        Series("ours", (PlotPoint("OBS, 31.25 %", 2.0, (1.5, 2.6)), PlotPoint("OBS, 50 %", 3.0, (2.5, 3.6)))),
        Series("paper", (PlotPoint("OBS, 31.25 %", 4.0), PlotPoint("OBS, 50 %", 12.0)), from_paper=True),
    )
    return TableReport(
        title="Table 1 & its <claims>",
        introduction=("Each pruner at equal sparsity under two schedules.", "The model is a small one."),
        columns=(
            metric_column("classifier_frechet", "FID, 50,000 images"),
            TableColumn("macs", "Multiply-adds", False, ".1%"),
            TableColumn("stages", "Stages"),
        ),
        rows=table_rows(),
        protocol=protocol(),
        environment=environment(),
        claims=(
            claim((3.0, 4.0), (0.4, 1.6)),
            claim((3.0, 3.1), (-0.5, 0.7)),
            claim((4.0, 3.0), (-1.6, -0.4), examination="The hand-made stages fit this model by chance."),
            claim((5.0, 3.0), None),
        ),
        plots=(
            Plot("Distance over sparsity", "sparsity in %", "distance (lower is better)", lines, caption="See."),
            Plot("Ours and the paper’s", "pruner", "distance (lower is better)", bars, "bars"),
        ),
        schedules={
            "Diff-ES": UNIFORM,
            HOSTILE: MIXED,
            "five stages": Allocation.uniform(LAYERS, 5, 8).resolve((4, 4, 4, 0, 8)),
        },
        history={
            f"search {i}": tuple(FitnessPoint(g, 0.8 + 0.01 * g + 0.02 * i, 0.75, 0.7) for g in range(4))
            for i in range(6)
        },
        gallery=small_gallery("Diff-ES", HOSTILE),
        provenance=provenance(),
    )
