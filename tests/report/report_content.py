"""A small but complete report: three models, one of them hostile by name and slower than dense."""

from __future__ import annotations

import numpy as np

from diff_es.evaluation import Evaluation, LatencyRecord, Protocol, Samples, ScheduleEvaluation, environment
from diff_es.report import FitnessPoint, ReportContent
from diff_es.sampling import SamplerConfig
from diff_es.schedule import Allocation, PruningSchedule

HOSTILE = '"><script>alert(1)</script>../$x_1$'


def schedule(name: str, levels: tuple[int, ...] | None, ssim: float, latency_ms: float) -> ScheduleEvaluation:
    latency = LatencyRecord(latency_ms, 0.9 * latency_ms, 1.1 * latency_ms, 20, 3, "a CPU", 2)
    dense = levels is None
    return ScheduleEvaluation(
        name=name,
        description=f"how {name} came about",
        levels=levels,
        ssim=ssim,
        latent_mse=1 - ssim,
        label_agreement=0.9,
        classifier_frechet=2.0 if dense else 10 * ssim,
        macs=2 * 10**9 if dense else 10**9,
        macs_ratio=1.0 if dense else 0.5,
        latency=latency,
    )


def evaluation(*schedules: ScheduleEvaluation) -> Evaluation:
    protocol = Protocol(
        "tiny", "DDIMScheduler", SamplerConfig(20, 4.0), Samples(16, 1000), Samples(100, 5000), 2000, 8, {"ssim": "t 1"}
    )
    return Evaluation(schedules, protocol, environment(), "Same seeds & sampler for all.")


def small_content() -> ReportContent:
    layers = ("blocks.0.attn", "blocks.0.ff", "blocks.1.attn", "blocks.1.ff")
    uniform = Allocation.uniform(layers, 3, 8).resolve((4, 4, 4))
    mixed = PruningSchedule((2, 4, 6), layers, ((0, 4, 2, 2), (4, 4, 4, 4), (8, 4, 6, 6)), 8)
    images = np.random.default_rng(0).random((12, 8, 8, 3))
    broken = images.astype(np.float32)
    broken[3, 0, 0, 0] = np.nan
    return ReportContent(
        title="A <small> run",
        evaluation=evaluation(
            schedule("dense", None, 1.0, 20.0),
            schedule("uniform", (4, 4, 4), 0.7, 16.0),
            schedule(HOSTILE, (2, 4, 6), 0.9, 25.0),
        ),
        schedules={"uniform": uniform, HOSTILE: mixed},
        history={HOSTILE: tuple(FitnessPoint(i, 0.8 + 0.01 * i, 0.75, 0.7) for i in range(3))},
        images={"dense": images, HOSTILE: broken},
        columns=tuple(f"class {i}" for i in range(12)),
        recipe="name: <b>bold</b>\n",
        command="diff-es run 'a & b.yaml'",
        notes=("Measured on <a href='https://example.org'>a machine</a>.",),
    )
