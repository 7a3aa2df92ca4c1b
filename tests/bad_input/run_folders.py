"""Run directories that are taken, damaged or something else."""

from __future__ import annotations

import pytest

from bad_input.lab import Lab, flip
from bad_input.table import REFUSED, case
from diff_es.artifacts import locked
from diff_es.errors import ArtifactError
from diff_es.run import compress
from diff_es.run.verify import verify_folder


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
    "run folder: a record damaged that a run makes again",
    "the run stops; `verify` says the same",
    "…sensitivity.json is no valid Sensitivity: … Remove …sensitivity.json, and --resume makes it again.",
)
def _(lab: Lab) -> None:
    record = lab.finished.copy(lab.run_folder) / "search" / "sensitivity.json"
    record.write_text(record.read_text()[:99])
    with pytest.raises(ArtifactError, match="is no valid Sensitivity"):
        verify_folder(lab.run_folder)
    compress(lab.finished.recipe, lab.run_folder, resume=True)


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
