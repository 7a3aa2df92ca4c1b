"""Numbers that break: NaN, infinity, singular matrices."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from bad_input.lab import Lab
from bad_input.table import REFUSED, case
from diff_es.metrics import register_metric
from diff_es.pruning import BankConfig
from diff_es.run import Session
from run.tiny_run import tiny_recipe
from support import tiny_pipe


def _always_nan(candidate: Tensor, dense: Tensor) -> Tensor:
    return torch.full(candidate.shape[:1], torch.nan)


def _nan_where_different(candidate: Tensor, dense: Tensor) -> Tensor:
    error = (candidate - dense).flatten(1).square().mean(dim=1)
    return torch.where(error > error.new_tensor(NAN_ABOVE), torch.nan, error)


#: Between the latent errors of the tiny model's schedules: some of them get NaN.
NAN_ABOVE = 0.2
register_metric("always-nan", _always_nan, higher_is_better=True, needs="latents")
register_metric("nan-where-different", _nan_where_different, higher_is_better=True, needs="latents")


@case(
    "fitness of every schedule is NaN",
    "the search stops after the start population",
    "fitness: all … schedules of generation 0 got NaN or −inf. Check the metric and the model's dtype (float16 "
    "overflows to NaN), or lower the sparsity.",
)
def _(lab: Lab) -> None:
    lab.run(search={"metric": "always-nan"})


@case("fitness of some schedules is NaN", "they lose against every number; the search goes on")
def _(lab: Lab) -> None:
    session = Session(tiny_recipe(lab.model, search={"metric": "nan-where-different"}), lab.run_folder)
    result = session.search("uniform")
    lines = (lab.run_folder / "search" / "uniform" / "journal.jsonl").read_text().splitlines()[1:]
    values = [float(json.loads(line)["fitness"]) for line in lines]
    known = [value for value in values if value == value]  # noqa: PLR0124 (NaN differs from itself)
    assert 0 < len(known) < len(values)
    assert result.fitness == max(known)


@case("OBS: fewer calibration samples than columns (singular Hessian)", "damping makes it solvable; the run goes on")
def _(lab: Lab) -> None:
    section = {"source": "sampling", "samples": 1, "batch_size": 1}
    session = Session(tiny_recipe(lab.model, calibration=section, sampler={"guidance_scale": 1.0}), lab.run_folder)
    assert session.pruned().info.method == "obs"


@case("OBS: activations all equal (Hessian of rank one)", "damping makes it solvable; the run goes on")
def _(lab: Lab) -> None:
    pipe = tiny_pipe()
    for block in pipe.transformer.transformer_blocks:
        torch.nn.init.zeros_(block.ff.net[0].proj.weight)
        torch.nn.init.ones_(block.ff.net[0].proj.bias)
    pipe.save_pretrained(lab.folder / "constant")
    session = Session(tiny_recipe(lab.folder / "constant"), lab.run_folder)
    assert session.pruned().info.method == "obs"


@case(
    "activations NaN or infinite",
    "calibration stops and names the layer",
    "transformer_blocks.1.ff.net.2/second_moment got NaN or infinity, so … was not written; check the model's weights "
    "and inputs, and its dtype (float16 overflows: try bfloat16 or float32).",
)
def _(lab: Lab) -> None:
    pipe = tiny_pipe()
    torch.nn.init.constant_(pipe.transformer.transformer_blocks[1].ff.net[0].proj.bias, torch.nan)
    pipe.save_pretrained(lab.folder / "broken")
    try:
        assert Session(
            tiny_recipe(lab.folder / "broken", calibration={"source": "dataset", **lab.two_images()}), lab.run_folder
        ).bank
    finally:
        assert not list((lab.run_folder / "calibration").glob("*.safetensors"))


@case(
    "widths in multiples of 0",
    REFUSED,
    "width_multiple=0 must be at least 1, or 'auto'.",
)
def _(_: Lab) -> object:
    return BankConfig("obs", width_multiple=0)


@case(
    "recipe: widths in multiples of a word",
    REFUSED,
    "… cannot be used: pruning.width_multiple…: Input should be …",
)
def _(lab: Lab) -> object:
    return lab.parse(pruning={"width_multiple": "wide"})


@case(
    "calibration: less memory than one layer's Hessian takes",
    REFUSED,
    "memory_limit=1073 bytes is too small: … alone needs … bytes.",
)
def _(lab: Lab) -> None:
    lab.refused(calibration={"memory_limit_gib": 1e-6})
