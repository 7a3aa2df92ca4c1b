"""A small table on the tiny pipeline, at a scale of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diff_es.evaluation import Judge, Judged
from diff_es.metrics import gaussian
from diff_es.reproduce.scale import Scale
from diff_es.reproduce.table import Claim, Row, Table
from run.tiny_run import saved_model

ROWS = (
    Row("uniform", "OBS", "paper/dit-obs", {"search": {"algorithm": "uniform"}}, searched=False, paper={"FID": 9.0}),
    Row("searched", "OBS", "paper/dit-obs", paper={"FID": 5.0, "speed-up": 1.2}),
    Row("greedy", "OBS", "paper/dit-obs", {"search": {"algorithm": "greedy"}}),
    Row(
        "fewer steps",
        "OBS",
        "paper/dit-obs",
        {"sampler": {"steps": 3, "scheduler": "EulerDiscreteScheduler"}, "search": {"algorithm": "uniform"}},
        searched=False,
        paper={"MACs": 20.0},
    ),
)
TABLE = Table(
    "tiny",
    "A tiny table",
    "Three ways to spend half of the budget.",
    ROWS,
    (
        Claim("searched", "uniform", "FID"),
        Claim("searched", "uniform", "SSIM"),
        Claim("searched", "dense", "latency, batch 2", paper=(60.0, 80.0)),
        Claim("uniform", "searched", "runtime"),
        Claim("fewer steps", "dense", "MACs"),
        Claim("resident", "stitched", "memory", paper=(5.6e9, 9.8e9)),
    ),
    latency=(2,),
    memory="searched",
    dense={"MACs": 50.0},
)


def tiny_scale(base: Path) -> Scale:
    """Everything as small as it can be; two searches."""
    return Scale(
        name="tiny",
        description="A random model of two blocks",
        seeds=(0, 1),
        images=8,
        generations=2,
        probes=2,
        changes={
            "model": str(saved_model(base)),
            "dtype": "float32",
            "stages": 3,
            "seed": 50,
            "sampler": {"steps": 6, "guidance_scale": 4.0},
            "calibration": {"source": "sampling", "samples": 10, "batch_size": 10},
            "pruning": {"levels": 4},
            "search": {"metric": "ssim", "batch_size": 2, "survivors": 2, "offspring": 3, "sensitivity_samples": 4},
            "evaluation": {"batch_size": 4},
        },
    )


def tiny_judge() -> Judge:
    """Judges images by the means of their quarters; its "real" images are noise."""

    def look(images: Tensor) -> Judged:
        features = torch.nn.functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float() / 255, 2).flatten(1)
        return Judged(features, features[:, :10])

    noise = torch.randint(0, 256, (40, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    features = look(noise).features
    names = ("quarter_frechet", "quarter_inception_score", "quarter_precision", "quarter_recall")
    return Judge(look, gaussian(features), features, "40 images of noise", names, "test", "0" * 64, splits=1)
