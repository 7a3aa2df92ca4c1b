"""`diff-es evaluate`: one model by a protocol, stopped and resumed, and never a part taken for the whole."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image

from diff_es import cli
from diff_es.artifacts import read_record
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation import generate
from diff_es.evaluation.images import to_pixels
from diff_es.evaluation.protocol import Given
from diff_es.evaluation.protocols import protocols
from diff_es.evaluation.reference import write_reference
from diff_es.metrics import gaussian
from diff_es.pipelines import load_pipeline
from diff_es.routing import load
from diff_es.run.judge import JudgeConfig, QualityRecord, judge
from diff_es.sampling import SamplerConfig
from random_inception import save_random_inception
from run.tiny_run import Finished, saved_model
from support import SAMPLER
from text_models import save_tiny_clip, tiny_text_pipe
from tiny_protocol import IMAGES, TINY, tiny_requests


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved_model(tmp_path_factory.getbasetemp()))


DENSE = JudgeConfig("tiny", steps=2, guidance_scale=1.0, device="cpu", batch_size=8)


@pytest.fixture(scope="module")
def straight(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, QualityRecord]:
    output = tmp_path_factory.mktemp("judged") / "quality"
    return output, judge(model, output, DENSE)


def pixels(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "images").iterdir())}


def test_a_dense_model(straight: tuple[Path, QualityRecord], model: str) -> None:
    output, record = straight
    assert read_record(output / "quality.json", QualityRecord) == record
    pipe = load_pipeline(model, device="cpu")
    images = generate(pipe, tiny_requests(Given(), IMAGES, 0), SamplerConfig(2, 1.0), batch_size=8)
    (own,) = record.measurements
    assert own.value == float(to_pixels(images, range(IMAGES)).double().mean())
    assert (own.samples.count, own.samples.first_seed, own.sampling, own.device) == (
        IMAGES,
        0,
        SamplerConfig(2, 1.0),
        "cpu",
    )
    assert (record.target, record.levels, record.protocol.name) == (model, None, "tiny")
    assert record.protocol.scheduler == "DDIMScheduler"
    assert [path.name for path in sorted((output / "images").iterdir())] == [
        *("000000-000063.safetensors", "000064-000069.safetensors", "settings.json")
    ]


def test_an_artefact_is_sampled_as_it_was_searched_for(finished: Finished, tmp_path: Path) -> None:
    artefact = finished.folder / "pruned"
    record = judge(str(artefact), tmp_path, JudgeConfig("tiny", images=3, device="cpu"))
    pipe = load_pipeline(str(finished.model), device="cpu")
    load(artefact, pipe)
    images = generate(pipe, tiny_requests(Given(), 3, 0), SAMPLER, batch_size=16)
    assert record.measurements[0].value == float(to_pixels(images, range(3)).double().mean())
    assert record.levels == finished.result.search.levels
    assert (record.protocol.sampling, record.protocol.model) == (SAMPLER, str(finished.model))
    assert record.protocol.name == "tiny (3 of 70 images)"
    other = judge(str(artefact), tmp_path / "other", JudgeConfig("tiny", images=3, steps=3, seed=5, device="cpu"))
    assert other.protocol.sampling == replace(SAMPLER, num_inference_steps=3)
    assert other.protocol.name == "tiny (3 of 70 images, seeds from 5 instead of 0)"


def test_asked_again_it_answers_from_the_folder(straight: tuple[Path, QualityRecord], model: str) -> None:
    output, record = straight
    moment = (output / "quality.json").stat().st_mtime_ns
    assert judge(model, output, replace(DENSE, batch_size=32)) == record
    assert (output / "quality.json").stat().st_mtime_ns == moment


def test_without_the_last_file_there_is_no_result(
    straight: tuple[Path, QualityRecord], model: str, tmp_path: Path
) -> None:
    """Images that are all there are measured, not made again; a missing file of images is made."""
    output, record = straight
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    (copy / "quality.json").unlink()
    (copy / "images" / "000064-000069.safetensors").unlink()
    kept = (copy / "images" / "000000-000063.safetensors").stat().st_mtime_ns
    assert judge(model, copy, DENSE) == record
    assert pixels(copy) == pixels(output)
    assert (copy / "images" / "000000-000063.safetensors").stat().st_mtime_ns == kept


def test_killed_and_resumed_equals_uninterrupted(
    straight: tuple[Path, QualityRecord], model: str, tmp_path: Path
) -> None:
    output, record = straight
    context = multiprocessing.get_context("fork")
    life = context.Process(target=judge, args=(model, tmp_path / "killed", DENSE))
    life.start()
    while life.is_alive() and not list(tmp_path.rglob("000000-000063.safetensors")):
        time.sleep(0.001)
    life.kill()
    life.join()
    assert life.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "quality.json").exists()
    assert judge(model, tmp_path / "killed", DENSE) == record
    assert pixels(tmp_path / "killed") == pixels(output)


def test_two_processes_share_one_folder(straight: tuple[Path, QualityRecord], model: str, tmp_path: Path) -> None:
    output, record = straight
    context = multiprocessing.get_context("fork")
    pair = [context.Process(target=judge, args=(model, tmp_path / "shared", DENSE)) for _ in range(2)]
    for life in pair:
        life.start()
    for life in pair:
        life.join()
    assert [life.exitcode for life in pair] == [0, 0]
    assert read_record(tmp_path / "shared" / "quality.json", QualityRecord) == record
    assert pixels(tmp_path / "shared") == pixels(output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 3}, "images was made with other settings"),
        ({"guidance_scale": 2.0}, "images was made with other settings"),
        ({"seed": 1}, "images was made with other settings"),
        ({"images": 69}, "images was made with other settings"),
        ({"dtype": "bfloat16"}, "images was made with other settings"),
        ({"reference": Path("another")}, r"was measured with other settings \(reference\)"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(
    straight: tuple[Path, QualityRecord], model: str, changes: dict[str, Any], message: str
) -> None:
    output, _ = straight
    before = pixels(output), (output / "quality.json").read_bytes()
    with pytest.raises(InputError, match=message):
        judge(model, output, replace(DENSE, **changes))
    assert (pixels(output), (output / "quality.json").read_bytes()) == before


def test_a_result_whose_images_are_gone_is_not_taken_for_another(
    straight: tuple[Path, QualityRecord], model: str, tmp_path: Path
) -> None:
    output, _ = straight
    tmp_path.joinpath("quality.json").write_bytes((output / "quality.json").read_bytes())
    with pytest.raises(InputError, match=r"other settings \(images\)"):
        judge(model, tmp_path, replace(DENSE, steps=3))


def test_a_damaged_result_is_named(straight: tuple[Path, QualityRecord], model: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(straight[0], tmp_path / "copy"))
    (copy / "quality.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"quality\.json is no valid QualityRecord"):
        judge(model, copy, DENSE)


def test_what_does_not_fit_is_refused_before_anything_is_written(
    finished: Finished, model: str, tmp_path: Path
) -> None:
    cases: list[tuple[str, JudgeConfig, str]] = [
        (model, replace(DENSE, protocol="tinny"), "Unknown protocol 'tinny': did you mean 'tiny'"),
        (model, replace(DENSE, images=1), "images=1 are too few for tiny"),
        (model, replace(DENSE, steps=None), "give steps and guidance_scale"),
        (model, replace(DENSE, guidance_scale=None), "give steps and guidance_scale"),
        (str(finished.folder), DENSE, "is a run directory; name its artefact, .*pruned"),
        (str(tmp_path), DENSE, "cannot be loaded as a diffusers pipeline"),
        (model, replace(DENSE, protocol="adm-imagenet256"), "compares with real images: give a reference"),
        (model, replace(DENSE, protocol="coco2017"), "coco2017 needs prompts"),
    ]
    for target, config, message in cases:
        with pytest.raises(InputError, match=message):
            judge(target, tmp_path / "out", config)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1000}, "needs a model of 1,000 classes; this one has 10"),
        ({"size": 256}, "this model makes 16 × 16"),
    ],
)
def test_a_model_that_the_protocol_does_not_mean(
    model: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    name = f"tiny with {changes}"
    if name not in protocols:
        protocols.register(name, replace(TINY, name=name, **changes))
    with pytest.raises(InputError, match=message):
        judge(model, tmp_path / "out", replace(DENSE, protocol=name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a finite number"),
        ({"dtype": "float8"}, "dtype='float8' must be one of float32"),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(DENSE, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": Path("r.npz")}, r"reference=r\.npz is nothing that fashion reads"),
        ({"inception_weights": Path("w.pth")}, r"inception_weights=w\.pth is nothing that fashion reads"),
        ({"prompts": Path("p.txt")}, r"prompts=p\.txt is nothing that fashion reads"),
        ({"clip": "openai/other"}, r"clip=openai/other is nothing that fashion reads"),
        ({"protocol": "adm-imagenet256", "prompts": Path("p.txt")}, "is nothing that adm-imagenet256 reads"),
        ({"model": "zoo:fashion-dit"}, "model='zoo:fashion-dit' is for an artefact, and .* is a dense model itself"),
    ],
)
def test_what_would_be_ignored_is_refused(model: str, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(model, tmp_path / "out", replace(DENSE, **{"protocol": "fashion", "images": 10, **changes}))
    assert not (tmp_path / "out").exists()


def test_an_artefact_has_its_own_dtype(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dtype='float32', but .* is an artefact, which has its own"):
        judge(str(finished.folder / "pruned"), tmp_path, JudgeConfig("tiny", dtype="float32", device="cpu"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diff-es", "evaluate", *map(str, words)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_command(straight: tuple[Path, QualityRecord], model: str, command: Any) -> None:
    output, record = straight
    words = [model, "--protocol", "tiny", "-o", output, "--steps", 2, "--guidance-scale", 1, "--device", "cpu"]
    code, out, _ = command(*words, "--json")
    assert code == 0
    assert json.loads(out)["measurements"][0]["value"] == record.measurements[0].value
    code, out, _ = command(*words)
    assert code == 0 and "mean_pixel" in out and f"{record.measurements[0].value:.4f}" in out and "70" in out
    code, out, err = command(*words, "--images", 3)
    assert (code, out) == (1, "") and err.startswith("error: ") and "other settings" in err


def imagenet_pipe() -> DiTPipeline:
    """1,000 classes, 256 × 256 pixels, random weights, and hardly any channels."""
    torch.manual_seed(0)
    denoiser = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
    ).eval()  # fmt: skip
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 6, "up_block_types": ("UpDecoderBlock2D",) * 6}
    vae = AutoencoderKL(
        sample_size=256, block_out_channels=(4,) * 6, layers_per_block=1, latent_channels=4, norm_num_groups=1, **blocks
    ).eval()
    return DiTPipeline(denoiser, vae, DDIMScheduler())


@pytest.mark.slow
def test_adm_from_the_command_line(command: Any, tmp_path: Path) -> None:
    """The whole protocol on a model, a reference and Inception weights that are random."""
    imagenet_pipe().save_pretrained(tmp_path / "model")
    weights = save_random_inception(tmp_path / "inception.pth")
    features = torch.randn(9, 2048, generator=torch.Generator().manual_seed(0))
    images = torch.randint(0, 256, (5, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_reference(tmp_path / "reference.npz", gaussian(features), images.numpy())
    words = [
        tmp_path / "model",
        "--protocol",
        "adm-imagenet256",
        "-o",
        tmp_path / "out",
        "--images",
        12,
        "--device",
        "cpu",
    ]
    words += ["--steps", 2, "--guidance-scale", 1.5, "--batch-size", 4, "--inception-weights", weights]
    code, out, err = command(*words, "--reference", tmp_path / "reference.npz", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert [own["metric"] for own in record["measurements"]] == ["fid", "inception_score", "precision", "recall"]
    assert record["protocol"]["name"] == "adm-imagenet256 (12 of 50,000 images)"
    assert all(own["samples"] == {"count": 12, "first_seed": 0} for own in record["measurements"])
    code, out, err = command(*words, "--json")
    assert code == 1 and "give a reference" in err


@pytest.mark.slow
def test_coco_from_the_command_line(command: Any, tmp_path: Path) -> None:
    """The whole protocol on a Stable Diffusion pipeline, Inception and CLIP of random weights."""
    tiny_text_pipe(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    save_tiny_clip(tmp_path / "clip")
    weights = save_random_inception(tmp_path / "inception.pth")
    (tmp_path / "prompts.txt").write_text("a boot\na bag\na boot\n")
    (tmp_path / "real").mkdir()
    for seed, size in enumerate([(20, 30), (30, 20)]):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{seed}.png")
    words = [tmp_path / "model", "--protocol", "coco2017", "-o", tmp_path / "out", "--images", 3, "--device", "cpu"]
    words += ["--steps", 2, "--guidance-scale", 7.5, "--inception-weights", weights, "--clip", tmp_path / "clip"]
    words += ["--reference", tmp_path / "real", "--prompts", tmp_path / "prompts.txt", "--json"]
    code, out, err = command(*words)
    assert code == 0, err
    record = json.loads(out)
    assert [own["metric"] for own in record["measurements"]] == ["fid", "clip_score"]
    assert record["protocol"]["name"] == "coco2017 (3 of 5,000 images)"
    assert set(record["sources"]) == {"reference", "inception", "clip", "images"}
    assert command(*words)[1] == out, "answered from the folder"
    (tmp_path / "prompts.txt").write_text("a boot\na bag\na shoe\n")
    code, _, err = command(*words)
    assert code == 1 and "images was made with other settings" in err
