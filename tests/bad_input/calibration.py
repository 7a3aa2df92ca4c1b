"""Calibration images and labels that cannot be used."""

from __future__ import annotations

import numpy as np

from bad_input.lab import Lab
from bad_input.table import case
from diff_es.run import generate_images


@case("calibration: no such folder", "stops before calibration", "calibration.data=… is no folder…")
def _(lab: Lab) -> None:
    lab.calibrate(lab.folder / "nowhere")


@case(
    "calibration: folder without images",
    "stops before calibration",
    "… holds no images: expected …/CLASS/*.png (or jpg, webp, bmp).",
)
def _(lab: Lab) -> None:
    lab.data.mkdir()
    lab.calibrate(lab.data)


@case(
    "calibration: image that does not open",
    "stops before calibration; no image is ever skipped",
    "…broken.png cannot be read as an image (…); repair or remove it.",
)
def _(lab: Lab) -> None:
    lab.image()
    whole = lab.image(name="broken.png")
    whole.write_bytes(whole.read_bytes()[:-200])
    lab.calibrate(lab.data)


@case(
    "calibration: empty image file",
    "stops before calibration",
    "…empty.png cannot be read as an image (…); repair or remove it.",
)
def _(lab: Lab) -> None:
    lab.image()
    lab.image(name="empty.png").write_bytes(b"")
    lab.calibrate(lab.data)


@case(
    "calibration: npz with pickled objects",
    "stops before calibration; nothing is unpickled",
    "…data.npz cannot be read as an npz with `images` and `labels`: Object arrays cannot be loaded when "
    "allow_pickle=False",
)
def _(lab: Lab) -> None:
    np.savez(lab.folder / "data.npz", images=np.array([{}], object), labels=np.arange(1))
    lab.calibrate(lab.folder / "data.npz")


@case(
    "calibration: images of another size",
    "stops before calibration",
    "calibration.data=… holds images of 8 × 8 pixels, the model makes 16 × 16: give an image folder (its images are "
    "resized), or calibrate with source: sampling.",
)
def _(lab: Lab) -> None:
    np.savez(lab.folder / "data.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.arange(2))
    lab.calibrate(lab.folder / "data.npz")


@case(
    "calibration: fewer images than samples",
    "stops before calibration",
    "samples=3 but only 1 images are there; lower samples or add images.",
)
def _(lab: Lab) -> None:
    lab.image()
    lab.calibrate(lab.data, samples=3)


@case(
    "calibration: class label out of range",
    "stops before calibration",
    "class_labels=[57] are out of range: the model knows 0…9.",
)
def _(lab: Lab) -> None:
    lab.image("57")
    lab.image("3")
    lab.calibrate(lab.data)


@case(
    "generate: class label out of range",
    "stops before sampling",
    "class_labels=[-1, 10] are out of range: the model knows 0…9.",
)
def _(lab: Lab) -> None:
    try:
        generate_images(lab.artefact, lab.folder / "images", labels=[3, 10, -1], device="cpu")
    finally:
        assert not (lab.folder / "images").exists()
