"""What each bad input gets. The table in docs/bad-input.md is made from the cases below; every row is a test.

After changing a case, write the page anew: `python tests/test_bad_input.py` (from the repository's root).
"""

from __future__ import annotations

import copy
import json
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from diff_es.artifacts import locked, sha256
from diff_es.bank import Pruned
from diff_es.errors import ArtifactError, DiffESError
from diff_es.metrics import register_metric
from diff_es.recipe import Recipe
from diff_es.routing import load, remove_
from diff_es.run import Session, compress, generate_images, inspect_model, load_pipeline, verify_folder
from diff_es.run.models import resolve_device
from diff_es.schedule import ScheduleSpace
from run.tiny_run import Finished, finished_run, tiny_recipe, tiny_settings
from support import tiny_pipe

PAGE = Path(__file__).parents[1] / "docs" / "bad-input.md"


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        given: The bad input.
        happens: What it gets.
        message: As printed, with … for what differs from case to case; empty where the run goes on.
        provoke: Gives the input, and checks what the row says besides the message.
    """

    given: str
    happens: str
    message: str
    provoke: Callable[[Lab], object]

    @property
    def row(self) -> str:
        fence = "``" if "`" in self.message else "`"
        message = f"{fence}{self.message}{fence}" if self.message else "-"
        return f"| {self.given} | {self.happens} | {message} |"


CASES: list[Case] = []


def case(given: str, happens: str, message: str = "") -> Callable[[Callable[[Lab], object]], Callable[[Lab], object]]:
    def add(provoke: Callable[[Lab], object]) -> Callable[[Lab], object]:
        CASES.append(Case(given, happens, message, provoke))
        return provoke

    return add


class Lab:
    """A folder, the tiny model, and a finished run to damage copies of."""

    def __init__(self, folder: Path, finished: Finished) -> None:
        self.folder = folder
        self.finished = finished
        self.model = finished.model
        self.run_folder = folder / "run"

    def read(self, text: str) -> Recipe:
        path = self.folder / "recipe.yaml"
        path.write_text(text)
        return Recipe.read(path)

    def parse(self, **changes: Any) -> Recipe:
        """Read a recipe that differs from the tiny one, from a file as users do."""
        return self.read(yaml.safe_dump(tiny_settings(self.model, **changes)))

    def run(self, **changes: Any) -> Session:
        """Carry a recipe out; a refused one leaves no folder."""
        return self._compressed(self.parse(**changes))

    def _compressed(self, recipe: Recipe) -> Session:
        compress(recipe, self.run_folder)
        return Session(recipe, self.run_folder)

    def refused(self, **changes: Any) -> None:
        """Carry a recipe out that cannot be: nothing may be written."""
        recipe = self.parse(**changes)
        try:
            compress(recipe, self.run_folder)
        finally:
            assert not self.run_folder.exists()

    def calibrate(self, data: Path, samples: int = 2) -> None:
        """Begin a run that is calibrated with images, up to the bank."""
        section = {"source": "dataset", "data": str(data), "samples": samples}
        assert Session(tiny_recipe(self.model, calibration=section), self.run_folder).bank

    def image(self, label: str = "0", name: str = "a.png") -> Path:
        path = self.folder / "data" / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(label + name)).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    def two_images(self) -> dict[str, Any]:
        """A calibration section with two images of a folder."""
        self.image("0")
        self.image("1")
        return {"data": str(self.data), "samples": 2}

    @cached_property
    def data(self) -> Path:
        return self.folder / "data"

    @cached_property
    def artefact(self) -> Path:
        """A copy of the finished run's artefact."""
        return Path(shutil.copytree(self.finished.folder / "pruned", self.folder / "pruned"))

    def manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the artefact's manifest."""
        path = self.artefact / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def load(self, pipe: Any = None) -> None:
        """Load the artefact; a refused one leaves the pipeline dense."""
        pipe = pipe if pipe is not None else tiny_pipe()
        try:
            load(self.artefact, pipe)
        finally:
            assert "_diff_es_router" not in vars(pipe.transformer)

    def resume(self, *lost: str) -> None:
        """Resume a copy of the finished run from which something was lost."""
        if not self.run_folder.exists():
            self.finished.copy(self.run_folder)
        for name in lost:
            path = self.run_folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        session = Session(self.finished.recipe, self.run_folder)
        assert session.bank
        session.pruned()


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """No file may grow beyond `largest` bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


REFUSED = "refused at once, nothing is written"


@case("recipe: no such file", REFUSED, "recipe=…: no such file; give a YAML file, or the name of a shipped one: demo.")
def _(lab: Lab) -> object:
    return Recipe.read(lab.folder / "nowhere.yaml")


@case(
    "recipe: unknown section",
    REFUSED,
    "… cannot be used: serach: unknown key; did you mean 'search'? Known: calibration, device, dtype, …",
)
def _(lab: Lab) -> object:
    return lab.parse(serach={})


@case(
    "recipe: unknown key in a section",
    REFUSED,
    "… cannot be used: search.sparsty: unknown key; did you mean 'sparsity'? Known: …",
)
def _(lab: Lab) -> object:
    return lab.parse(search={"sparsty": 0.5})


@case("recipe: no model", REFUSED, "… cannot be used: model: is required.")
def _(lab: Lab) -> object:
    return lab.read("stages: 3")


@case(
    "recipe: a word where a number belongs", REFUSED, "… cannot be used: stages='ten': Input should be a valid integer."
)
def _(lab: Lab) -> object:
    return lab.parse(stages="ten")


@case(
    "recipe: a value out of its range",
    REFUSED,
    "… cannot be used: search.sparsity=1.5: Input should be less than or equal to 1.",
)
def _(lab: Lab) -> object:
    return lab.parse(search={"sparsity": 1.5})


@case(
    "recipe: NaN or infinity",
    REFUSED,
    "… cannot be used: sampler.guidance_scale=inf: Input should be a finite number.",
)
def _(lab: Lab) -> object:
    return lab.parse(sampler={"guidance_scale": float("inf")})


@case(
    "recipe: a choice that is none",
    REFUSED,
    "… cannot be used: calibration.source='datasets': Input should be 'dataset' or 'sampling'.",
)
def _(lab: Lab) -> object:
    return lab.parse(calibration={"source": "datasets"})


@case(
    "recipe: YAML alias",
    REFUSED,
    "… is no valid YAML: aliases (*a) are not allowed in a recipe, line 2; write it out",
)
def _(lab: Lab) -> object:
    return lab.read("model: &a zoo:fashion-dit\ndevice: *a")


@case(
    "recipe: YAML tag",
    REFUSED,
    "… is no valid YAML: tags (tag:yaml.org,2002:python/name:os.system) are not allowed in a recipe, line 1; remove it",
)
def _(lab: Lab) -> object:
    return lab.read("model: !!python/name:os.system")


@case(
    "recipe: a key twice",
    REFUSED,
    "… is no valid YAML: the key model appears twice, in the section of line 1; keep one",
)
def _(lab: Lab) -> object:
    return lab.read("model: a\nmodel: b")


@case("recipe: nested without end", REFUSED, "… is no valid YAML: maximum recursion depth exceeded…")
def _(lab: Lab) -> object:
    return lab.read("[" * 100_000)


@case(
    "unknown pruner",
    REFUSED,
    "Unknown pruner 'obss': did you mean 'obs'? Known: layerdrop, magnitude, obs, wanda.",
)
def _(lab: Lab) -> object:
    return lab.refused(pruning={"method": "obss"})


@case("unknown metric", REFUSED, "Unknown metric 'ssimm': did you mean 'ssim'? Known: …")
def _(lab: Lab) -> object:
    return lab.refused(search={"metric": "ssimm"})


@case("unknown zoo model", REFUSED, "Unknown zoo model 'fashion-dti': did you mean 'fashion-dit'? Known: …")
def _(lab: Lab) -> object:
    return lab.refused(model="zoo:fashion-dti")


@case(
    "more stages than steps",
    REFUSED,
    "num_stages=7 does not fit a sampler of 6 steps: every stage needs at least one step. Use 1 to 6 stages, or more "
    "inference steps.",
)
def _(lab: Lab) -> object:
    return lab.refused(stages=7)


@case(
    "infeasible budget",
    REFUSED,
    "sparsity=0.9 is infeasible: with every stage at its highest level (3, 3, 3) of H=4 only 0.7500 can be removed. "
    "Lower sparsity or raise max_levels.",
)
def _(lab: Lab) -> object:
    return ScheduleSpace((2, 2, 2), 4, 0.9, (3, 3, 3))


@case("`cuda` without CUDA", REFUSED, "device='cuda', but no CUDA device is available; use cpu.")
def _(lab: Lab) -> object:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    return lab.refused(device="cuda")


@case("a device of another kind", REFUSED, "device='mps' is not supported; use auto, cpu or cuda.")
def _(lab: Lab) -> object:
    return resolve_device("mps")


@case(
    "a model that is no pipeline",
    REFUSED,
    "model='…' cannot be loaded as a diffusers pipeline: … Give zoo:NAME (fashion-vae, fashion-dit, "
    "fashion-classifier), a folder written by save_pretrained, or a Hub id.",
)
def _(lab: Lab) -> object:
    return lab.refused(model=str(lab.folder))


@case("a model whose weights are cut off", REFUSED, "model='…' cannot be loaded as a diffusers pipeline: …")
def _(lab: Lab) -> object:
    shutil.copytree(lab.model, lab.folder / "model")
    weights = lab.folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return lab.refused(model=str(lab.folder / "model"))


@case(
    "unsupported denoiser",
    REFUSED,
    "The denoiser UNet2DModel is not supported: Known: DiTTransformer2DModel. To add it, register a DenoiserSpec in "
    "diff_es.denoisers.specs.",
)
def _(lab: Lab) -> object:
    channels: dict[str, Any] = {"block_out_channels": (4, 4), "norm_num_groups": 1, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=8, **channels, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(lab.folder / "unet")
    return lab.refused(model=str(lab.folder / "unet"))


class OnlyDecoder(DiffusionPipeline):  # type: ignore[misc]
    """A pipeline with nothing to prune."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae)


@case("pipeline without denoiser", REFUSED, "OnlyDecoder has no denoiser: neither `transformer` nor `unet`.")
def _(lab: Lab) -> object:
    return inspect_model(OnlyDecoder(tiny_pipe().vae))


@case(
    "a routed model routed again",
    "refused; the model stays routed as it was",
    "The denoiser is routed: call diff_es.remove_(pipe) first.",
)
def _(lab: Lab) -> None:
    pipe = tiny_pipe()
    load(lab.artefact, pipe)
    try:
        load(lab.artefact, pipe)
    finally:
        remove_(pipe)


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
    "transformer_blocks.1.ff/second_moment got NaN or infinity, so … was not written; check the model's weights and "
    "inputs, and its dtype (float16 overflows: try bfloat16 or float32).",
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


FULL = "stops; no half-written file or folder stays, and the run can be resumed"


@case("disk full while the bank is written", FULL, "Cannot write …bank/stage-00.safetensors: File too large.")
def _(lab: Lab) -> None:
    lab.finished.copy(lab.run_folder)
    try:
        with full_disk(4096):
            lab.resume("bank")
    finally:
        assert [path.name for path in (lab.run_folder / "bank").iterdir()] == ["settings.json"]
        lab.resume()


@case("disk full while the journal is written", FULL, "Cannot write …journal.jsonl: File too large.")
def _(lab: Lab) -> None:
    lab.finished.copy(lab.run_folder)
    journal = lab.run_folder / "search" / "sensitivity" / "journal.jsonl"
    whole = journal.read_bytes()
    try:
        with full_disk(len(whole) - 500):
            lab.resume("search/sensitivity", "pruned")
    finally:
        assert journal.read_bytes().endswith(b"\n") and 1 < journal.read_bytes().count(b"\n") < whole.count(b"\n")
        lab.resume()


@case("disk full while the artefact is written", FULL, "Cannot write …stage-00.safetensors: File too large.")
def _(lab: Lab) -> None:
    lab.finished.copy(lab.run_folder)
    try:
        with full_disk(512):
            lab.resume("pruned")
    finally:
        assert not [item for item in lab.run_folder.iterdir() if "pruned" in item.name]
        lab.resume()


NOT_LOADED = "not loaded; the model stays dense"


@case(
    "artefact of another model",
    NOT_LOADED,
    "The pruned weights belong to another model: made for DiTTransformer2DModel (float32, sha256 …), given "
    "DiTTransformer2DModel (float32, sha256 …); load the model that was pruned.",
)
def _(lab: Lab) -> None:
    lab.load(tiny_pipe(seed=1))


@case(
    "artefact, model in another dtype",
    NOT_LOADED,
    "The pruned weights belong to another model: made for DiTTransformer2DModel (float32, sha256 …), given "
    "DiTTransformer2DModel (bfloat16, sha256 …); load the model that was pruned with dtype=float32 (it may be moved to "
    "another dtype once routed).",
)
def _(lab: Lab) -> None:
    lab.load(tiny_pipe().to(torch.bfloat16))


@case(
    "artefact: flipped byte",
    NOT_LOADED,
    "…pruned: stage-01.safetensors is damaged (its sha256 differs from the manifest's)…",
)
def _(lab: Lab) -> None:
    flip(lab.artefact / "stage-01.safetensors")
    lab.load()


@case("artefact: missing shard", NOT_LOADED, "…pruned: stage-02.safetensors is missing; copy the folder again, whole.")
def _(lab: Lab) -> None:
    (lab.artefact / "stage-02.safetensors").unlink()
    lab.load()


@case(
    "artefact: incomplete folder",
    NOT_LOADED,
    "…pruned has no manifest.json: it is incomplete, or was not written by Diff-ES.",
)
def _(lab: Lab) -> None:
    (lab.artefact / "manifest.json").unlink()
    lab.load()


@case(
    "artefact of a newer format",
    NOT_LOADED,
    "…pruned has format 99; this version reads up to 1: upgrade diff-es.",
)
def _(lab: Lab) -> None:
    lab.manifest(lambda manifest: manifest.update(format=99, what_is_new=1))
    lab.load()


LEAVES = "…pruned: the manifest names '…', which leaves the folder; do not trust it."


@case("artefact: path with `..`", NOT_LOADED, LEAVES)
def _(lab: Lab) -> None:
    lab.manifest(lambda manifest: manifest["files"][0].update(path="../secret"))
    lab.load()


@case("artefact: absolute path", NOT_LOADED, LEAVES)
def _(lab: Lab) -> None:
    lab.manifest(lambda manifest: manifest["files"][0].update(path="/etc/passwd"))
    lab.load()


@case("artefact: symbolic link that leads out", NOT_LOADED, LEAVES)
def _(lab: Lab) -> None:
    shard = lab.artefact / "stage-00.safetensors"
    shard.rename(lab.folder / "elsewhere")
    shard.symlink_to(lab.folder / "elsewhere")
    lab.load()


@case(
    "artefact: NaN in a tensor",
    NOT_LOADED,
    "…stage-00.safetensors: … holds NaN or infinity; make or copy the folder again.",
)
def _(lab: Lab) -> None:
    shard = lab.artefact / "stage-00.safetensors"
    tensors = load_file(shard)
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point())
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, shard)
    entry = {"size": shard.stat().st_size, "sha256": sha256(shard)}
    lab.manifest(lambda manifest: next(f for f in manifest["files"] if f["path"] == shard.name).update(entry))
    lab.load()


@case(
    "run folder: bank damaged",
    "the run stops; `verify` says the same",
    "…bank: stage-01.safetensors is damaged (its sha256 differs from the manifest's)…",
)
def _(lab: Lab) -> None:
    lab.finished.copy(lab.run_folder)
    flip(lab.run_folder / "bank" / "stage-01.safetensors")
    with pytest.raises(ArtifactError, match="is damaged"):
        verify_folder(lab.run_folder)
    lab.resume()


@case(
    "run folder: journal damaged before its last line",
    "the run stops; nothing of the journal is lost",
    "…journal.jsonl: line 3 is damaged (its checksum differs); restore the file or choose another folder.",
)
def _(lab: Lab) -> None:
    lab.finished.copy(lab.run_folder)
    journal = lab.run_folder / "search" / "sensitivity" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"0.", b"1.", 1)
    journal.write_bytes(b"".join(lines))
    lab.resume("search/sensitivity/result.json", "pruned")


@case(
    "run folder: taken",
    REFUSED,
    "output=… holds a run already; go on with it by --resume, or choose another.",
)
def _(lab: Lab) -> object:
    return compress(lab.finished.recipe, lab.finished.folder)


@case(
    "run folder: resumed with another recipe",
    REFUSED,
    "output=… was started with another recipe: seed is 0 there, 1 here. Resume with …recipe.yaml, or choose another "
    "folder.",
)
def _(lab: Lab) -> object:
    return compress(lab.parse(seed=1), lab.finished.folder, resume=True)


@case("run folder: holds something else", REFUSED, "output=… is not empty and holds no run; choose another folder.")
def _(lab: Lab) -> None:
    (lab.folder / "letter.txt").write_text("dear all")
    try:
        compress(lab.finished.recipe, lab.folder)
    finally:
        assert [item.name for item in lab.folder.iterdir()] == ["letter.txt"]


@case("run folder: is a file", REFUSED, "output=… is a file; choose a folder.")
def _(lab: Lab) -> None:
    lab.run_folder.write_text("")
    compress(lab.finished.recipe, lab.run_folder)


@case(
    "run folder: another run works there",
    REFUSED,
    "… is in use by another run; wait for it or choose another folder.",
)
def _(lab: Lab) -> None:
    with locked(lab.finished.folder):
        compress(lab.finished.recipe, lab.finished.folder, resume=True)


@pytest.fixture
def lab(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path, finished_run(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.given)
def test_each_row_happens(lab: Lab, row: Case) -> None:
    if not row.message:
        row.provoke(lab)
        return
    with pytest.raises(DiffESError) as caught:
        row.provoke(lab)
    pattern = ".*".join(map(re.escape, row.message.split("…")))
    said = re.sub(r"\s+", " ", str(caught.value))
    assert re.fullmatch(pattern, said, re.DOTALL), said


def page() -> str:
    """The whole of docs/bad-input.md."""
    rows = "\n".join(case.row for case in CASES)
    return f"""# Bad input

Nothing is repaired silently. What cannot be used as given is one error, raised as `InputError` or `ArtifactError` in
Python and printed as one message with exit code 1 by `diff-es`. `…` stands for what differs from case to case (a path,
a hash, a longer list). Every row is a test in `tests/test_bad_input.py`, from which this page is written.

| input | what happens | message |
|---|---|---|
{rows}
"""


def test_the_page_holds_these_rows() -> None:
    assert PAGE.read_text() == page(), "write the page anew: python tests/test_bad_input.py"


def test_the_finished_run_was_not_touched(lab: Lab) -> None:
    """Runs last: every case worked on copies."""
    assert Pruned.open(lab.finished.folder / "pruned").info.schedule.levels == lab.finished.result.search.levels
    assert copy.deepcopy(lab.finished.recipe) == Recipe.read(lab.finished.folder / "recipe.yaml")
    assert load_pipeline(str(lab.model), device="cpu").transformer is not None


if __name__ == "__main__":
    PAGE.write_text(page())
