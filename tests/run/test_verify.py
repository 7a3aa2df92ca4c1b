"""`diff-es verify`: every stored image is looked at; what is missing, damaged or a stranger is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diff_es.errors import ArtifactError
from diff_es.run.judge import JudgeConfig, judge
from diff_es.run.verify import verify_folder
from diff_es.views import verification_table
from run.tiny_run import Finished, saved_model
from tiny_protocol import TINY

ROWS = ("dense", "searched-uniform", "searched-sensitivity")


@pytest.fixture
def folder(finished: Finished, tmp_path: Path) -> Path:
    return finished.copy(tmp_path / "run")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy images in two files."""
    output = tmp_path_factory.mktemp("judged")
    model = str(saved_model(tmp_path_factory.getbasetemp()))
    judge(model, output, JudgeConfig(TINY.name, steps=1, guidance_scale=1.0, device="cpu", batch_size=35))
    return output


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_images_of_every_row_are_counted(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "evaluation").iterdir()) == sorted(ROWS)
    assert verify_folder(folder)["evaluation"] == len(ROWS) * len(("samples", "settings", "quality"))


def test_a_run_may_lack_its_images_but_not_some_of_them(folder: Path) -> None:
    shutil.rmtree(folder / "evaluation" / ROWS[1])
    with pytest.raises(ArtifactError, match=r"searched-uniform/settings\.json is missing"):
        verify_folder(folder)
    shutil.rmtree(folder / "evaluation")
    assert verify_folder(folder)["evaluation"] == 0


@pytest.mark.parametrize("row", ROWS)
def test_a_flipped_bit_in_an_image_is_found(folder: Path, row: str) -> None:
    flip_last_byte(folder / "evaluation" / row / "000000-000003.safetensors")
    with pytest.raises(ArtifactError, match=rf"{row}/000000-000003\.safetensors is damaged"):
        verify_folder(folder)


def test_quality_must_be_a_readable_record(folder: Path) -> None:
    (folder / "evaluation" / ROWS[0] / "quality.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"dense/quality\.json"):
        verify_folder(folder)


@pytest.mark.parametrize("name", ["sensitivity.json", "sensitivity/result.json", "uniform/result.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(lambda path: path.unlink(), "is missing"), (lambda path: path.write_text(path.read_text()[:99]), "is no valid")],
    ids=["absent", "cut off"],
)
def test_what_resuming_reads_of_a_search_is_read(
    folder: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder / "search" / name)
    with pytest.raises(ArtifactError, match=rf"search/{name} {message}"):
        verify_folder(folder)


def test_a_measured_batch_size_is_read(folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        re.sub(r"(?m)^search:$(.*?)batch_size: 2$", r"search:\1batch_size: auto", recipe.read_text(), flags=re.S)
    )
    with pytest.raises(ArtifactError, match=r"search/batch_size\.json is missing"):
        verify_folder(folder)


def test_a_damaged_journal_is_found(folder: Path) -> None:
    journal = folder / "search" / "sensitivity" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], lines[1].replace("1", "2", 1), *lines[2:]]))
    with pytest.raises(ArtifactError, match=r"journal\.jsonl is damaged"):
        verify_folder(folder)


def test_calibration_may_be_absent_but_not_cut_off(folder: Path) -> None:
    assert verify_folder(folder)["calibration"] == 3
    shard = folder / "calibration" / "stage-00.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=r"calibration/stage-00\.safetensors cannot be read"):
        verify_folder(folder)
    shutil.rmtree(folder / "calibration")
    checked = verify_folder(folder)
    assert checked["calibration"] == 0
    shown = list(verification_table(checked).columns[1].cells)
    assert shown[1] == "absent" and shown.count("absent") == 1
    assert verification_table(checked).title == "All files that are there are intact"


def test_the_folder_of_an_evaluation(judged: Path) -> None:
    assert verify_folder(judged) == {"quality.json": 1, "images": 3}


FIRST, SECOND = "000000-000063.safetensors", "000064-000069.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda images: flip_last_byte(images / SECOND), rf"{SECOND} is damaged"),
        (lambda images: (images / SECOND).unlink(), "holds the first 64 of 70 samples"),
        (lambda images: (images / FIRST).unlink(), rf"{SECOND} is not the file that begins with sample 0"),
        (
            lambda images: shutil.copy(images / SECOND, images / "letter.safetensors"),
            r"letter\.safetensors is not the file",
        ),
        (
            lambda images: (images / SECOND).rename(images / "000064-000070.safetensors"),
            r"000064-000070\.safetensors is not the file",
        ),
        (lambda images: shutil.copy(images / FIRST, images / SECOND), "does not hold 6 samples"),
        (lambda images: (images.parent / "quality.json").unlink(), r"quality\.json is missing"),
    ],
)
def test_images_that_are_not_those_of_the_record(
    judged: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "copy"))
    damage(copy / "images")
    with pytest.raises(ArtifactError, match=message):
        verify_folder(copy)


def test_images_of_another_evaluation_are_told_from_the_records_own(judged: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "copy"))
    settings = copy / "images" / "settings.json"
    settings.write_text(settings.read_text().replace("DDIMScheduler", "DDPMScheduler"))
    with pytest.raises(ArtifactError, match="was measured on other images than those beside it"):
        verify_folder(copy)


def test_what_is_none_of_these_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no run directory, bank, artefact or evaluation"):
        verify_folder(tmp_path)
