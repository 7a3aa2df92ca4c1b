"""Prompts, captions and samplers that do not fit a text-to-image model, or that fit no other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bad_input.lab import Lab
from bad_input.table import REFUSED, case
from diff_es.routing import load
from diff_es.run import Session, compress, generate_images
from diff_es.sampling import SamplerConfig
from run.text_runs import captioned_folder, text_recipe, write_prompts
from support import tiny_pipe
from tiny_pipelines import tiny_sdxl

BEFORE = "stops before calibration"


def refused(lab: Lab, prompts: Any = "", **changes: Any) -> None:
    """Carry out a recipe for a text-to-image model that cannot be: nothing may be written."""
    recipe = text_recipe("tiny-sdxl", prompts, lab.folder / "data").changed(changes)
    try:
        compress(recipe, lab.run_folder, pipe=tiny_sdxl(lab.folder / "model"))
    finally:
        assert not lab.run_folder.exists()


def calibrated(lab: Lab, **section: Any) -> None:
    """Begin a run of a text-to-image model, up to its calibration."""
    recipe = text_recipe("tiny-sdxl", write_prompts(lab.folder), lab.folder / "data").changed({"calibration": section})
    assert Session(recipe, lab.run_folder, tiny_sdxl(lab.folder / "model")).source


@case(
    "text-to-image model: no prompts",
    REFUSED,
    "StableDiffusionXLPipeline makes images from prompts, and the recipe has none: add prompts, a file with one prompt "
    "per line or COCO's captions file (.json).",
)
def _(lab: Lab) -> None:
    refused(lab)


@case(
    "prompts for a class-conditional model",
    REFUSED,
    "prompts=prompts.txt, but DiTPipeline makes images from class labels; remove it.",
)
def _(lab: Lab) -> None:
    lab.refused(prompts="prompts.txt")


@case(
    "sampler: an argument that leaves steps out",
    REFUSED,
    "arguments={'denoising_end': 0.5} has denoising_end, which leaves out steps that stages and budget count: plan, "
    "calibrate and search without it. …",
)
def _(lab: Lab) -> None:
    refused(lab, write_prompts(lab.folder), sampler={"arguments": {"denoising_end": 0.5}})


@case("prompts: no such file", REFUSED, "… is no file; name a file with a list of prompts.")
def _(lab: Lab) -> None:
    refused(lab, lab.folder / "nowhere.txt")


@case(
    "prompts: an empty line",
    REFUSED,
    "…prompts.txt, line 2 is empty; every line is one prompt, so write one or remove the line.",
)
def _(lab: Lab) -> None:
    refused(lab, write_prompts(lab.folder, ("a dog", "", "a cat")))


@case(
    "prompts: fewer than the search's probes",
    REFUSED,
    "prompts=… holds 1 prompts for search.probes=2: give as many, or lower search.probes to 1.",
)
def _(lab: Lab) -> None:
    refused(lab, write_prompts(lab.folder, ("a dog",)))


@case(
    "captions for a class-conditional model",
    REFUSED,
    "calibration.captions=captions.json, but DiTPipeline makes images from class labels; remove it.",
)
def _(lab: Lab) -> None:
    lab.refused(calibration={"source": "dataset", "captions": "captions.json"})


@case(
    "captions beside data that has its own",
    REFUSED,
    "calibration.captions=captions.json belongs to an image folder, and calibration.data=zoo:fashion has captions of "
    "its own; remove one of the two.",
)
def _(lab: Lab) -> None:
    section = {"captions": "captions.json", "data": "zoo:fashion"}
    refused(lab, write_prompts(lab.folder), calibration=section)


@case(
    "text-to-image model: calibration folder without captions",
    BEFORE,
    "… holds no captions: give COCO's captions file as calibration.captions, or add metadata.jsonl (one "
    '{"file_name": …, "text": …} per line) or captions.txt (file, tab, caption).',
)
def _(lab: Lab) -> None:
    lab.two_images()
    calibrated(lab)


@case(
    "calibration: an image without caption",
    BEFORE + "; no image is ever skipped",
    "…other.png has no caption in …captions.txt; add one, or remove the image.",
)
def _(lab: Lab) -> None:
    folder = captioned_folder(lab.folder / "data")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "other.png")
    calibrated(lab)


@case(
    "calibration: a caption without its image",
    BEFORE,
    "…captions.txt names '0.png', which is no image (png, jpg, webp or bmp) in ….",
)
def _(lab: Lab) -> None:
    (captioned_folder(lab.folder / "data") / "0.png").unlink()
    calibrated(lab)


@case(
    "calibration: a Hugging Face data set without `datasets`",
    BEFORE,
    "calibration.data=hf:some/name needs datasets: pip install 'diff-es[hf]'.",
)
def _(lab: Lab) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)
        calibrated(lab, data="hf:some/name")


@case(
    "calibration: the images have changed since they were encoded",
    "the run stops; the latents are neither used nor lost",
    "…latents was made with other settings (…; see …settings.json); choose another folder or remove it.",
)
def _(lab: Lab) -> None:
    folder = captioned_folder(lab.folder / "data")
    calibrated(lab)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "0.png")
    calibrated(lab)


@case(
    "generate: prompts for a class-conditional model",
    "stops before sampling",
    "prompts=['a dog'], but DiTPipeline makes images from class labels: give --label.",
)
def _(lab: Lab) -> None:
    _generated_nothing(lab.artefact, lab.folder / "images", prompts=["a dog"])


@case(
    "generate: a seed that no generator takes",
    "stops before sampling",
    "seeds=99999999999999999999…100000000000000000008 must lie between 0 and 9223372036854775807; choose others.",
)
def _(lab: Lab) -> None:
    _generated_nothing(lab.artefact, lab.folder / "images", seed=10**20 - 1)


def _generated_nothing(artefact: Path, folder: Path, **arguments: Any) -> None:
    try:
        generate_images(artefact, folder, device="cpu", **arguments)
    finally:
        assert not folder.exists()


@case(
    "a sampler that leaves a stage without a step",
    "refused; the model stays dense",
    "The schedule was searched for DDIMScheduler, whose 6 steps visit 830, 664, 498, 332, …; this pipeline has "
    "DDIMScheduler, whose 2 steps visit 500, 0: stages [2] of 3 would get no step. Use the sampler and the number of "
    "steps of the search.",
)
def _(lab: Lab) -> None:
    pipe = tiny_pipe()
    try:
        load(lab.artefact, pipe, sampler=SamplerConfig(2))
    finally:
        assert "_diff_es_router" not in vars(pipe.transformer)
