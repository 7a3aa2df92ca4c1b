"""References, prompts, images and weights that an evaluation cannot use."""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.request import OpenerDirector

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image
from safetensors.torch import load_file, save_file

from bad_input.lab import Lab
from bad_input.table import REFUSED, case
from diff_es.evaluation.clip import ClipScorer
from diff_es.evaluation.folder import ImageFolder
from diff_es.evaluation.protocol import Given, Opened
from diff_es.evaluation.protocols import protocols
from diff_es.evaluation.reference import write_reference
from diff_es.metrics import Gaussian
from diff_es.run.judge import JudgeConfig, judge
from random_inception import save_random_inception
from text_models import save_tiny_clip
from tiny_protocol import TINY

ADM, COCO = "adm-imagenet256", "coco2017"
DENSE = JudgeConfig(ADM, steps=2, guidance_scale=1.0, device="cpu", images=10)


def evaluate(lab: Lab, config: JudgeConfig) -> None:
    """Evaluate the tiny dense model; a refused evaluation writes nothing."""
    output = lab.folder / "quality"
    try:
        judge(str(lab.model), output, config)
    finally:
        assert not output.exists()


@contextmanager
def offline(lab: Lab) -> Iterator[None]:
    """No network, and no weights in any cache."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(lab.folder / "torch"))
        patch.setenv("HOME", str(lab.folder / "home"))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(lab.folder / "hub"))
        patch.setattr(OpenerDirector, "open", refuse)
        patch.setattr(socket, "create_connection", refuse)
        yield


@case(
    "evaluate: unknown protocol", REFUSED, "Unknown protocol 'adm-imagenet': did you mean 'adm-imagenet256'? Known: …"
)
def _(lab: Lab) -> None:
    evaluate(lab, replace(DENSE, protocol="adm-imagenet"))


@case(
    "evaluate: fewer images than the metrics need",
    REFUSED,
    "images=9 are too few for adm-imagenet256, which has 50,000 and needs at least 10 to compute its metrics at all.",
)
def _(lab: Lab) -> None:
    evaluate(lab, replace(DENSE, images=9))


@case(
    "evaluate: no reference named",
    REFUSED,
    "adm-imagenet256 compares with real images: give a reference, ADM's VIRTUAL_imagenet256_labeled.npz (mu, sigma, "
    "arr_0).",
)
def _(lab: Lab) -> None:
    evaluate(lab, DENSE)


@case("evaluate: reference missing", REFUSED, "reference=…real.npz does not exist; adm-imagenet256 needs …")
def _(lab: Lab) -> None:
    evaluate(lab, replace(DENSE, reference=lab.folder / "real.npz"))


@case(
    "evaluate: reference with pickled objects",
    f"{REFUSED}; nothing is unpickled",
    "…real.npz is no reference that can be used: arr_0 holds pickled Python objects, which could run code and are "
    "never loaded; …",
)
def _(lab: Lab) -> None:
    np.savez(lab.folder / "real.npz", arr_0=np.array([{}], object))
    evaluate(lab, replace(DENSE, reference=lab.folder / "real.npz"))


@case(
    "evaluate: reference with arrays of wrong shapes",
    REFUSED,
    "…real.npz is no reference that can be used: mu (2048,) and sigma (3, 3) are not of shapes (D,) and (D, D); …",
)
def _(lab: Lab) -> None:
    np.savez(lab.folder / "real.npz", mu=np.zeros(2048), sigma=np.eye(3))
    evaluate(lab, replace(DENSE, reference=lab.folder / "real.npz"))


@case(
    "evaluate: reference of other features",
    REFUSED,
    "reference=…real.npz holds statistics of 64 features; those of Inception's pool3 have 2048.",
)
def _(lab: Lab) -> None:
    statistics = Gaussian(torch.zeros(64, dtype=torch.float64), torch.eye(64, dtype=torch.float64))
    write_reference(lab.folder / "real.npz", statistics, np.zeros((5, 256, 256, 3), np.uint8))
    evaluate(lab, replace(DENSE, reference=lab.folder / "real.npz"))


@case(
    "evaluate: reference that is a zip bomb",
    f"{REFUSED}; nothing is unpacked",
    "…real.npz is no reference that can be used: arr_0 would grow from … to … bytes when unpacked, like a zip bomb; …",
)
def _(lab: Lab) -> None:
    path = lab.folder / "real.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("arr_0.npy", "w") as member:
        description = {"descr": "|u1", "fortran_order": False, "shape": (32, 1024, 1024, 3)}
        npy.write_array_header_1_0(member, description)
        for _ in range(96):
            member.write(bytes(2**20))
    evaluate(lab, replace(DENSE, reference=path))


@case(
    "evaluate: cut-off reference",
    REFUSED,
    "…real.npz is damaged, cut off or no .npz file (…); download it again from its publisher, or make one with …",
)
def _(lab: Lab) -> None:
    path = lab.folder / "real.npz"
    np.savez(path, arr_0=np.zeros((5, 8, 8, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-100])
    evaluate(lab, replace(DENSE, reference=path))


@case(
    "evaluate: prompts file with an empty line",
    REFUSED,
    "…prompts.txt, line 2 is empty; every line is one prompt, so write one or remove the line.",
)
def _(lab: Lab) -> None:
    (lab.folder / "prompts.txt").write_text("a boot\n\na bag\n")
    evaluate(lab, replace(DENSE, protocol=COCO, prompts=lab.folder / "prompts.txt"))


@case(
    "evaluate: fewer prompts than images", REFUSED, "prompts=…prompts.txt holds 1 prompts for 10 images; give as many."
)
def _(lab: Lab) -> None:
    (lab.folder / "prompts.txt").write_text("a boot\n")
    evaluate(lab, replace(DENSE, protocol=COCO, prompts=lab.folder / "prompts.txt"))


def open_coco(lab: Lab) -> Opened:
    """Open the protocol on the lab's image folder, with networks of random weights."""
    save_tiny_clip(lab.folder / "clip")
    weights = save_random_inception(lab.folder / "inception.pth")
    try:
        return protocols[COCO].open(Given(lab.data / "0", weights, clip=str(lab.folder / "clip")))
    finally:
        weights.unlink()  # 100 MB


@case(
    "evaluate: text file named .png among the real images",
    "stops before sampling; no image is ever skipped",
    "…b.png cannot be read as an image (…); repair or remove it.",
)
def _(lab: Lab) -> None:
    lab.image(name="a.png")
    lab.image(name="b.png").write_text("no picture")
    open_coco(lab).prepare()


@case(
    "evaluate: real image with transparent pixels",
    "stops before sampling",
    "…a.png has transparent pixels; put it on a background and save it without transparency.",
)
def _(lab: Lab) -> None:
    path = lab.image(name="a.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(path)
    list(ImageFolder.open(lab.data / "0").batches())


@case(
    "evaluate: folder without real images",
    REFUSED,
    "…empty holds no images: expected …empty/*.png (or jpg, webp, bmp).",
)
def _(lab: Lab) -> None:
    (lab.folder / "empty").mkdir()
    (lab.folder / "prompts.txt").write_text("a boot\n" * 10)
    evaluate(lab, replace(DENSE, protocol=COCO, prompts=lab.folder / "prompts.txt", reference=lab.folder / "empty"))


@case(
    "evaluate: Inception weights missing while offline",
    REFUSED,
    "The Inception weights are not in … and cannot be downloaded (…the network is unreachable…); get the file from … "
    "on a machine that can reach it, and name it with --inception-weights (in Python: weights=...).",
)
def _(lab: Lab) -> None:
    statistics = Gaussian(torch.zeros(2048, dtype=torch.float64), torch.eye(2048, dtype=torch.float64))
    write_reference(lab.folder / "real.npz", statistics, np.zeros((4, 256, 256, 3), np.uint8))
    with offline(lab):
        evaluate(lab, replace(DENSE, reference=lab.folder / "real.npz"))


@case(
    "evaluate: CLIP missing while offline",
    REFUSED,
    "The CLIP model 'openai/clip-vit-base-patch16' is no folder, not in the hub cache (…), and could not be downloaded "
    "(…). Download it on a machine with a network (…), or name a folder that holds it.",
)
def _(lab: Lab) -> None:
    with offline(lab):
        ClipScorer.load()


@case(
    "CLIP-IQA weights missing while offline",
    "the search stops before its first schedule",
    "The weights of the metric 'clip_iqa' are missing…",
)
def _(lab: Lab) -> None:
    with offline(lab):
        lab.run(search={"metric": "clip_iqa"})


@case(
    "evaluate: dense model without steps and guidance",
    REFUSED,
    "… is a dense model, for which nothing says how it is sampled: give steps and guidance_scale. Both move every "
    "number of a protocol.",
)
def _(lab: Lab) -> None:
    evaluate(lab, replace(DENSE, steps=None))


@case(
    "evaluate: run directory instead of its artefact",
    REFUSED,
    "… is a run directory; name its artefact, …pruned.",
)
def _(lab: Lab) -> None:
    judge(str(lab.finished.folder), lab.folder / "quality", DENSE)


SMALL = replace(DENSE, protocol=TINY.name, images=2)


@case(
    "evaluate: folder of another evaluation",
    "refused; what is there stays",
    "…quality/images was made with other settings (sampler.num_inference_steps is 2 there, 3 here; see "
    "…settings.json); choose another folder or remove it.",
)
def _(lab: Lab) -> None:
    output = lab.folder / "quality"
    judge(str(lab.model), output, SMALL)
    before = {path: path.read_bytes() for path in output.rglob("*.*")}
    try:
        judge(str(lab.model), output, replace(SMALL, steps=3))
    finally:
        assert {path: path.read_bytes() for path in output.rglob("*.*")} == before


@case(
    "evaluate: folder measured against another reference",
    "refused; what is there stays",
    "…quality.json was measured with other settings (reference); choose another folder, or move the file away to "
    "measure anew.",
)
def _(lab: Lab) -> None:
    judge(str(lab.model), lab.folder / "quality", SMALL)
    judge(str(lab.model), lab.folder / "quality", replace(SMALL, reference=lab.folder))


@case(
    "evaluate: damaged file of generated images",
    "stops; nothing is measured",
    "…000000-000001.safetensors is damaged: the sha256 of images differs; remove the file, and it will be made again.",
)
def _(lab: Lab) -> None:
    output = lab.folder / "quality"
    judge(str(lab.model), output, SMALL)
    (output / "quality.json").unlink()
    path = output / "images" / "000000-000001.safetensors"
    tensors = load_file(path)
    tensors["images"][0, 0, 0, 0] ^= 1
    save_file(tensors, path)
    try:
        judge(str(lab.model), output, SMALL)
    finally:
        assert not (output / "quality.json").exists()
