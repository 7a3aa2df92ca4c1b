"""Calibration images by name, and their latents, which a run encodes once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diff_es import zoo
from diff_es.artifacts import read_record
from diff_es.calibration import encode
from diff_es.errors import ArtifactError, InputError
from diff_es.images import CaptionedImages, LabelledImages
from diff_es.pipelines import image_size, latent_shape
from diff_es.recipe import CalibrationSection
from diff_es.run.data import _LatentSettings, check_data, load_images, stored_latents
from diff_es.sampling import PromptRequests, Requests, SamplerConfig, any_requests, sample
from run.text_runs import SAMPLES, captioned_folder, captioned_npz, captions, pixels
from support import tiny_pipe
from text_models import tiny_text_pipe
from tiny_pipelines import BUILDERS, tiny_flux, tiny_sana, tiny_sdxl


def section(data: Path | str, **changes: Any) -> CalibrationSection:
    return CalibrationSection(**{"data": str(data), "samples": SAMPLES, **changes})


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_captioned_images_for_a_text_model(tmp_path: Path, form: str) -> None:
    data = captioned_folder(tmp_path / "data") if form == "folder" else captioned_npz(tmp_path / "data.npz")
    read = load_images(section(data), tiny_sdxl(tmp_path / "model"))
    assert isinstance(read, CaptionedImages) and read.captions == tuple(captions())
    assert np.array_equal(read.images, pixels())


def large(pipe: Any) -> Any:
    """A pipeline of 32 × 32 pixels, as the shipped images are."""
    pipe.default_sample_size = 16
    return pipe


def test_the_shipped_images_have_captions_too(tmp_path: Path) -> None:
    read = load_images(section("zoo:fashion"), large(tiny_flux(tmp_path)))
    shipped = zoo.calibration_set().take(SAMPLES)
    assert isinstance(read, CaptionedImages) and np.array_equal(read.images, shipped.images)
    for caption, label in zip(read.captions, shipped.labels.tolist(), strict=True):
        assert caption.endswith(zoo.CLASS_NAMES[label])


def test_what_the_other_kind_of_model_needs_is_named(tmp_path: Path) -> None:
    text, classes = tiny_sdxl(tmp_path / "model"), tiny_pipe()
    with pytest.raises(InputError, match=r"cannot be read as an npz with `images` and `labels`"):
        load_images(section(captioned_npz(tmp_path / "data.npz")), classes)
    folder = tmp_path / "classes"
    captioned_folder(folder / "cats")
    assert isinstance(load_images(section(folder), classes), LabelledImages)
    with pytest.raises(InputError, match=r"classes holds no captions: give COCO's captions file"):
        load_images(section(folder), text)
    with pytest.raises(InputError, match="holds images of 32 × 32 pixels, the model makes 16 × 16"):
        load_images(section("zoo:fashion"), text)


def test_captions_where_they_do_not_belong(tmp_path: Path) -> None:
    text = tiny_sdxl(tmp_path)
    with pytest.raises(InputError, match=r"calibration\.captions=c\.json, but DiTPipeline makes images from class"):
        check_data(section("data", captions="c.json"), tiny_pipe())
    for data in ("zoo:fashion", "hf:some", "data.npz"):
        with pytest.raises(InputError, match=rf"belongs to an image folder, and calibration\.data={data}"):
            check_data(section(data, captions="c.json"), text)
    check_data(section("data", captions="c.json"), text)
    check_data(section("data", captions="c.json", source="sampling"), tiny_pipe())


LABELLED = LabelledImages(pixels(), np.arange(SAMPLES))
CAPTIONED = CaptionedImages(pixels(), tuple(captions()))


@pytest.mark.parametrize(("images", "kind"), [(LABELLED, Requests), (CAPTIONED, PromptRequests)])
def test_latents_are_encoded_once(tmp_path: Path, images: Any, kind: type[Any]) -> None:
    pipe, folder = tiny_sdxl(tmp_path / "model"), tmp_path / "latents"
    latents, requests = stored_latents(pipe, images, folder, 4)
    torch.testing.assert_close(latents, encode(pipe, pixels()), rtol=1e-5, atol=1e-6)
    assert isinstance(requests, kind) and requests.seeds == tuple(range(SAMPLES))
    assert read_record(folder / "settings.json", _LatentSettings).requests == requests
    pipe.vae.encoder.register_forward_pre_hook(lambda *_: pytest.fail("encoded again"))
    again, _ = stored_latents(pipe, images, folder, 4)
    assert torch.equal(latents, again)


def test_a_lost_file_of_latents_is_made_again(tmp_path: Path) -> None:
    """Of many images that lie in several files."""
    pipe, folder = tiny_sdxl(tmp_path / "model"), tmp_path / "latents"
    many = CaptionedImages(np.tile(pixels(), (12, 1, 1, 1)), tuple(f"number {i}" for i in range(72)))
    latents, _ = stored_latents(pipe, many, folder, 64)
    files = sorted(folder.glob("*.safetensors"))
    assert [path.name for path in files] == ["000000-000063.safetensors", "000064-000071.safetensors"]
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    again, _ = stored_latents(pipe, many, folder, 64)
    assert torch.equal(latents, again) and files[0].stat().st_mtime_ns == kept
    files[0].write_bytes(files[0].read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=r"000000-000063\.safetensors is damaged"):
        stored_latents(pipe, many, folder, 64)


def test_latents_of_other_images_are_refused(tmp_path: Path) -> None:
    pipe, folder = tiny_sdxl(tmp_path / "model"), tmp_path / "latents"
    stored_latents(pipe, CAPTIONED, folder, 4)
    flipped = CaptionedImages(pixels()[:, ::-1], CAPTIONED.captions)
    renamed = CaptionedImages(CAPTIONED.images, tuple(f"{caption}!" for caption in CAPTIONED.captions))
    for other in (flipped, renamed, LABELLED):
        with pytest.raises(InputError, match="latents was made with other settings"):
            stored_latents(pipe, other, folder, 4)
    torch.nn.init.ones_(pipe.vae.encoder.conv_in.bias)
    with pytest.raises(InputError, match="latents was made with other settings"):
        stored_latents(pipe, CAPTIONED, folder, 4)


SIZED = {**BUILDERS, "sd": tiny_text_pipe, "dit": lambda _: tiny_pipe()}


@pytest.mark.parametrize("name", SIZED)
def test_the_size_is_that_of_the_images_that_the_pipeline_makes(tmp_path: Path, name: str) -> None:
    pipe = SIZED[name](tmp_path)
    images = sample(pipe, any_requests(pipe, 1), SamplerConfig(2, 1.0))
    assert tuple(images.shape[2:]) == (image_size(pipe), image_size(pipe))
    pixels = np.zeros((1, image_size(pipe), image_size(pipe), 3), np.uint8)
    assert encode(pipe, pixels).shape[1:] == latent_shape(pipe)


def test_the_size_of_sana_is_that_of_its_latents(tmp_path: Path) -> None:
    """It resizes what it makes to 1024 × 1024."""
    pipe = tiny_sana(tmp_path)
    assert (image_size(pipe), latent_shape(pipe)) == (32, (4, 16, 16))
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert encode(pipe, pixels).shape[1:] == latent_shape(pipe)


@pytest.mark.parametrize("side", [None, [8, 16]])
def test_a_pipeline_without_a_square_size(tmp_path: Path, side: Any) -> None:
    pipe = tiny_text_pipe(tmp_path)
    pipe.unet.register_to_config(sample_size=side)
    with pytest.raises(InputError, match=r"StableDiffusionPipeline says sample_size=.* source: sampling"):
        image_size(pipe)
