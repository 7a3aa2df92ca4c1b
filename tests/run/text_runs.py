"""Recipes and calibration data for runs of the tiny text-to-image pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diff_es.recipe import Recipe
from run.tiny_run import tiny_recipe

PROMPTS = tuple(f"a photo of thing {letter}" for letter in "abcdefgh")
SAMPLES = 6
#: FLUX.1-schnell takes four steps and no guidance.
FLUX: dict[str, Any] = {"stages": 4, "sampler": {"steps": 4, "guidance_scale": 0.0}}


def write_prompts(folder: Path, prompts: tuple[str, ...] = PROMPTS) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n")
    return path


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SAMPLES, 16, 16, 3), np.uint8)


def captions() -> list[str]:
    return [f"a picture of {number}" for number in range(SAMPLES)]


def captioned_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(pixels()):
        Image.fromarray(image).save(folder / f"{number}.png")
    lines = [f"{number}.png\t{caption}" for number, caption in enumerate(captions())]
    (folder / "captions.txt").write_text("\n".join(lines))
    return folder


def captioned_npz(path: Path) -> Path:
    np.savez(path, images=pixels(), captions=np.array(captions()))
    return path


def text_recipe(model: Path | str, prompts: Path | str, data: Path | str, /, **changes: Any) -> Recipe:
    """Less than the tiny recipe, calibrated on captioned images; the fitness tells tiny differences apart."""
    calibration = {"source": "dataset", "data": str(data), "samples": SAMPLES, "batch_size": 3}
    search = {"metric": "latent_mse", "generations": 1, **changes.pop("search", {})}
    evaluation: dict[str, Any] = {"compare": [], "latency_batch_sizes": [1], "latency_repeats": 1}
    sampler, pruning = changes.pop("sampler", {"steps": 3}), {"levels": 2}
    sections = {"calibration": calibration, "pruning": pruning, "search": search, "evaluation": evaluation}
    return tiny_recipe(model, prompts=str(prompts), sampler=sampler, **sections, **changes)
