"""Figures 1 and 4: the searched schedule beside the hand-made one."""

from __future__ import annotations

from diff_es.reproduce.table import Claim, Table, tables
from diff_es.reproduce.tables.table1 import DENSE, diff_es, mosaic, sensitivity

FIGURE1 = tables.register(
    "figure1",
    Table(
        "figure1",
        "Figure 1: schedules and what they make, at 50 %",
        "The paper shows SDXL here. OBS at 50 % on the diffusion transformer: the hand-made schedule, the searched "
        "one, and the images that both make from the same seeds.",
        (mosaic("OBS", 0.5), diff_es("OBS", 0.5), sensitivity("OBS", 0.5)),
        (Claim(diff_es("OBS", 0.5).name, mosaic("OBS", 0.5).name, "FID"),),
        dense=DENSE,
    ),
)

FIGURE4 = tables.register(
    "figure4",
    Table(
        "figure4",
        "Figure 4: stage-wise schedules of Diff-ES and MosaicDiff",
        "OBS at 31.25 % on the diffusion transformer, level by level. The paper finds both much alike on DiT: pruning "
        "gathers in the stages that are sampled first.",
        (mosaic("OBS", 0.3125), diff_es("OBS", 0.3125)),
        (Claim(diff_es("OBS", 0.3125).name, mosaic("OBS", 0.3125).name, "FID"),),
        dense=DENSE,
    ),
)
