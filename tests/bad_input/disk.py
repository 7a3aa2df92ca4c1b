"""Disks that are full."""

from __future__ import annotations

from bad_input.lab import Lab, full_disk
from bad_input.table import case

FULL = "stops; no half-written file or folder stays, and the run can be resumed"


@case("disk full while the bank is written", FULL, "Cannot write …bank/stage-00.safetensors: File too large….")
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


@case("disk full while the artefact is written", FULL, "Cannot write …stage-00.safetensors: File too large….")
def _(lab: Lab) -> None:
    lab.finished.copy(lab.run_folder)
    try:
        with full_disk(512):
            lab.resume("pruned")
    finally:
        assert not [item for item in lab.run_folder.iterdir() if "pruned" in item.name]
        lab.resume()
