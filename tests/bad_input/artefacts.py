"""Artefacts that are damaged, foreign or hostile."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bad_input.lab import Lab, flip
from bad_input.table import REFUSED, case
from diff_es.artifacts import sha256
from diff_es.bank import Bank, Pruned
from diff_es.errors import InputError
from diff_es.routing import apply_, is_routed, load, save
from diff_es.run import generate_images
from diff_es.run.benchmark import benchmark
from diff_es.sampling import SamplerConfig
from support import tiny_pipe

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
    "artefact: saved for a sampler that was not searched for",
    REFUSED,
    "sampler=SamplerConfig(num_inference_steps=2, …): the bank's stages were made for steps that visit 830, 664, 498, "
    "332, …; this pipeline's DDIMScheduler visits 500, 0. Save with the scheduler and the number of steps of the "
    "search; `load` takes others (sampler=...).",
)
def _(lab: Lab) -> None:
    bank, folder = Bank.open(lab.finished.folder / "bank"), lab.folder / "new"
    schedule = bank.uniform_allocation().resolve((0,) * bank.plan.num_stages)
    try:
        save(folder, tiny_pipe(), bank, schedule, sampler=SamplerConfig(2), base_model="tiny")
    finally:
        assert not folder.exists()


@case(
    "run directory instead of its artefact (generate, bench, load)",
    NOT_LOADED,
    "… is a run directory; name its artefact, …pruned.",
)
def _(lab: Lab) -> None:
    said = "is a run directory; name its artefact"
    with pytest.raises(InputError, match=said):
        benchmark(lab.finished.folder, device="cpu")
    with pytest.raises(InputError, match=said):
        load(lab.finished.folder, tiny_pipe())
    generate_images(lab.finished.folder, lab.folder / "images", device="cpu")


@case(
    "artefact whose dense model is elsewhere now",
    "stops before sampling",
    "model='…' cannot be loaded as a diffusers pipeline: … The artefact names '…' as its dense model: if that is "
    "elsewhere now, give --model (in Python: model=...).",
)
def _(lab: Lab) -> None:
    lab.manifest(lambda manifest: manifest.update(base_model=str(lab.folder / "gone")))
    generate_images(lab.artefact, lab.folder / "images", device="cpu")


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
    "…pruned has format 99; this version reads up to 2: upgrade diff-es.",
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
    "artefact: folder removed while it is open",
    NOT_LOADED,
    "…stage-00.safetensors has changed or is gone since it was opened (…): tensors are read when they are needed, so "
    "leave the folder as it is, and open it again.",
)
def _(lab: Lab) -> None:
    pruned, pipe = Pruned.open(lab.artefact), tiny_pipe()
    shutil.rmtree(lab.artefact)
    try:
        apply_(pipe, pruned, pruned.info.schedule)
    finally:
        assert not is_routed(pipe)
