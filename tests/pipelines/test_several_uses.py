"""One artefact for all pipelines that share a denoiser: image to image, inpainting, ControlNet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    ControlNetModel,
    FlowMatchHeunDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image
from torch import Tensor

from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError
from diff_es.routing import is_routed, load, remove_, routed, save
from diff_es.timesteps import ImageNeededError, stage_plan
from pipelines.prepared import fresh, mixed, obs_bank, settings_of
from pipelines.registry import PIPELINES, STEPS, TinyPipeline
from tiny_pipelines import quiet

SIDE = 16


def picture(value: int | None = None) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(noise if value is None else np.full_like(noise, value))


@dataclass(frozen=True)
class Use:
    """A pipeline that is made from the parts of another one.

    Attributes:
        kind: Its class.
        arguments: What its call takes beside a prompt and the number of steps.
        rehearsed: Whether it sets its timesteps before it looks for an image.
        control: Whether a ControlNet belongs to it.
    """

    kind: Any
    arguments: Callable[[], dict[str, Any]]
    rehearsed: bool = False
    control: bool = False

    def of(self, pipe: Any) -> Any:
        more: dict[str, Any] = {}
        if self.control:
            torch.manual_seed(0)
            more["controlnet"] = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8)).eval()
        return quiet(self.kind.from_pipe(pipe, **more))


def start() -> dict[str, Any]:
    return {"image": picture(), "strength": 0.75}


def start_of_flux() -> dict[str, Any]:
    return {**start(), "height": SIDE, "width": SIDE}


def hole() -> dict[str, Any]:
    return {**start(), "mask_image": picture(255), "height": SIDE, "width": SIDE}


def drawing() -> dict[str, Any]:
    return {"image": picture()}


USES = {
    "sd15": (
        Use(StableDiffusionImg2ImgPipeline, start),
        Use(StableDiffusionInpaintPipeline, hole, rehearsed=True),
        Use(StableDiffusionControlNetPipeline, drawing, control=True),
    ),
    "sdxl": (
        Use(StableDiffusionXLImg2ImgPipeline, start),
        Use(StableDiffusionXLInpaintPipeline, hole, rehearsed=True),
        Use(StableDiffusionXLControlNetPipeline, drawing, control=True),
    ),
    "flux": (Use(FluxImg2ImgPipeline, start_of_flux), Use(FluxInpaintPipeline, hole)),
}
PAIRS = [pytest.param(name, use, id=use.kind.__name__) for name, uses in USES.items() for use in uses]
every_use = pytest.mark.parametrize(("name", "use"), PAIRS)


def named(name: str) -> TinyPipeline:
    return next(own for own in PIPELINES if own.name == name)


def images(pipe: Any, arguments: dict[str, Any]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    made = pipe(prompt=["a"], num_inference_steps=STEPS, generator=generator, output_type="pt", **arguments)
    return made.images  # type: ignore[no-any-return]


@every_use
def test_an_artefact_is_loaded_into_it(name: str, use: Use, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its images are those of the pipeline that shares a routed text-to-image pipeline's denoiser."""
    own = named(name)
    pipe, bank = fresh(own), obs_bank(own)
    other, arguments = use.of(pipe), use.arguments()
    save(tmp_path / "pruned", pipe, bank, mixed(bank), sampler=settings_of(own), base_model="tiny")
    dense = images(other, arguments)
    with routed(pipe, bank, mixed(bank)):
        assert is_routed(other)
        expected = images(other, arguments)
    with caplog.at_level(logging.WARNING, "diff_es"):
        load(tmp_path / "pruned", other)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("diff_es")]
    told = f"{use.kind.__name__} does not say without an image which timesteps it visits"
    assert [told in message for message in said] == [True] * (not use.rehearsed)
    assert is_routed(pipe)
    with pytest.raises(InputError, match="is routed"):
        load(tmp_path / "pruned", pipe)
    assert torch.equal(images(other, arguments), expected) and not torch.equal(expected, dense)
    remove_(pipe)
    assert not is_routed(other) and torch.equal(images(other, arguments), dense)


@every_use
def test_its_stages_are_planned_where_it_can_be_asked(name: str, use: Use) -> None:
    """The reason is the pipeline's own, and not its scheduler's."""
    pipe = fresh(named(name))
    other = use.of(pipe)
    if use.rehearsed:
        assert stage_plan(other, 2, STEPS) == stage_plan(pipe, 2, STEPS)
        return
    with pytest.raises(
        ImageNeededError, match=rf"{use.kind.__name__} needs more than a prompt .*\(.*[iI]mage"
    ) as caught:
        stage_plan(other, 2, STEPS)
    assert "with the text-to-image pipeline of the same model" in str(caught.value)
    assert "refuses" not in str(caught.value)


def test_a_scheduler_that_refuses_is_still_named() -> None:
    """This pipeline takes an image but needs none."""
    pipe = quiet(FluxKontextPipeline.from_pipe(fresh(named("flux"))))
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with pytest.raises(InputError, match=r"FlowMatchHeunDiscreteScheduler refuses num_inference_steps=4"):
        stage_plan(pipe, 2, STEPS)


@pytest.mark.parametrize(("strength", "stages"), [(0.25, [0]), (0.75, [1, 0, 0]), (1.0, [2, 1, 0, 0])])
def test_it_runs_the_stages_that_its_timesteps_lie_in(strength: float, stages: list[int]) -> None:
    own = named("sdxl")
    pipe, bank = fresh(own), obs_bank(own)
    other = quiet(AutoPipelineForImage2Image.from_pipe(pipe))
    seen: list[int] = []

    def look(_: Any, __: int, timestep: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        seen.append(vars(denoiser_of(other))["_diff_es_router"].stage)
        assert seen[-1] == bank.plan.stage_at(float(timestep))
        return state

    with routed(pipe, bank, mixed(bank)):
        images(other, {"image": picture(), "strength": strength, "callback_on_step_end": look})
    assert seen == stages
