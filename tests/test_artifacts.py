"""Files: written whole or not at all, read strictly, checked by sha256."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diff_es.artifacts import (
    MANIFEST,
    FileEntry,
    check_files,
    claim,
    held,
    inside,
    list_files,
    locked,
    new_folder,
    read_record,
    sha256,
    slugs,
    write_bytes,
    write_record,
)
from diff_es.errors import ArtifactError, InputError
from diff_es.schedule import PruningSchedule, ScheduleSpace


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...]
    values: dict[str, float]


@dataclass(frozen=True)
class Outer:
    count: int
    score: float
    inner: tuple[Inner, ...]
    note: str | None = None


RECORD = Outer(3, 0.1 + 0.2, (Inner(("σ", "b"), {"x": 1.0}), Inner((), {})))


def test_a_record_comes_back_equal(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", RECORD)
    assert read_record(tmp_path / "r.json", Outer) == RECORD
    schedule = PruningSchedule((1, 2), ("a", "b"), ((1, 1), (0, 2)), 4)
    write_record(tmp_path / "s.json", schedule)
    assert read_record(tmp_path / "s.json", PruningSchedule) == schedule
    assert names(tmp_path) == ["r.json", "s.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_come_back(tmp_path: Path, value: float) -> None:
    write_record(tmp_path / "r.json", replace(RECORD, score=value))
    assert repr(read_record(tmp_path / "r.json", Outer).score) == repr(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Invalid JSON"),
        (b'{"count": 3', "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"score": 1, "inner": []}', "count: Field required"),
        (b'{"count": "3", "score": 1, "inner": []}', "count: Input should be a valid integer"),
        (b'{"count": 3, "score": 1, "inner": [], "cuont": 4}', "unknown key 'cuont'"),
        (b'{"count": 3, "score": 1, "inner": [{"names": [], "values": {}, "x": 1}]}', "unknown key 'inner.x'"),
        (b'{"count": 3, "count": 4, "score": 1, "inner": []}', "'count' occurs twice"),
    ],
)
def test_a_file_that_holds_no_such_record_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_record(path, Outer)
    assert str(path) in str(caught.value)


def test_a_record_that_is_impossible_is_refused(tmp_path: Path) -> None:
    space = ScheduleSpace((2, 2), 8, 0.5, (8, 8))
    write_record(tmp_path / "space.json", space)
    text = (tmp_path / "space.json").read_text().replace("0.5", "1.5")
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"sparsity=1.5 must lie in \[0, 1\]"):
        read_record(tmp_path / "space.json", ScheduleSpace)


def test_a_missing_or_huge_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        read_record(tmp_path / "absent.json", Outer)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ArtifactError, match="larger than"):
        read_record(tmp_path / "huge.json", Outer)


def test_a_folder_is_absent_until_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bank"
    with new_folder(target) as folder:
        (folder / "shard").write_bytes(b"1")
        assert not target.exists()
    assert (target / "shard").read_bytes() == b"1"
    assert names(target.parent) == ["bank"]


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_nothing_is_left_of_a_folder_after_a_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), new_folder(tmp_path / "bank") as folder:
        (folder / "shard").write_bytes(b"1")
        raise failure
    assert names(tmp_path) == []


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "bank"):
        pass


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / f".bank.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half").write_bytes(b"0")
    with new_folder(tmp_path / "bank") as folder:
        (folder / "shard").write_bytes(b"1")
    assert names(tmp_path / "bank") == ["shard"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from typing import Literal
import numpy
from safetensors.numpy import save_file
from diff_es.artifacts import new_folder, write_bytes
from diff_es.errors import ArtifactError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = Path(sys.argv[1])
def raw():
    with new_folder(folder / "raw") as new: (new / "x").write_bytes(bytes(100_000))
def tensors():
    with new_folder(folder / "tensors") as new: save_file({"w": numpy.zeros(50_000)}, new / "w.safetensors")
def file():
    write_bytes(folder / "old.json", bytes(100_000))
for write in (raw, tensors, file):
    try: write()
    except ArtifactError as error: print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    """The limit on file size makes the kernel refuse the write half-way, as a full disk does."""
    (tmp_path / "old.json").write_bytes(b"old")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    messages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(messages) == 3
    for message, name in zip(messages, ("raw", "tensors", "old.json"), strict=True):
        assert message.startswith(f"Cannot write {tmp_path / name}: ")
        assert "File too large" in message
    assert names(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_bytes() == b"old"


def test_writing_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="Cannot write"), new_folder(tmp_path / "file" / "bank"):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "bank"
    (root / "stage-0").mkdir(parents=True)
    (root / "stage-0" / "a.safetensors").write_bytes(b"weights")
    (root / "b.json").write_bytes(b"{}")
    (root / MANIFEST).write_bytes(b"{}")
    return root


def test_files_are_listed_without_the_manifest_and_check_out(folder: Path) -> None:
    entries = list_files(folder)
    assert [entry.path for entry in entries] == ["b.json", "stage-0/a.safetensors"]
    assert entries[1].size == 7
    assert entries[0].sha256 == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    check_files(folder, entries)


def test_a_flipped_cut_or_missing_file_is_refused(folder: Path) -> None:
    entries = list_files(folder)
    shard = folder / "stage-0" / "a.safetensors"
    for at in range(7):
        flipped = bytearray(b"weights")
        flipped[at] ^= 1
        shard.write_bytes(flipped)
        with pytest.raises(ArtifactError, match=r"stage-0/a.safetensors is damaged"):
            check_files(folder, entries)
        shard.write_bytes(b"weights"[:at])
        with pytest.raises(ArtifactError, match=r"stage-0/a.safetensors is damaged"):
            check_files(folder, entries)
    shard.unlink()
    with pytest.raises(ArtifactError, match=r"stage-0/a.safetensors is missing"):
        check_files(folder, entries)


@pytest.mark.parametrize("path", ["../secret", "stage-0/../../secret", "/etc/passwd", "link/secret", "a\0b", "x" * 300])
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"s")
    (folder / "link").symlink_to(folder.parent)
    with pytest.raises(ArtifactError, match="do not trust it"):
        inside(folder, path)
    with pytest.raises(ArtifactError, match="do not trust it"):
        check_files(folder, (FileEntry(path, 1, sha256(secret)),))


def test_an_absolute_path_into_the_folder_is_refused_too(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="do not trust it"):
        inside(folder, str(folder / "b.json"))


def test_a_link_to_a_file_outside_is_refused(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"weights")
    shard = folder / "stage-0" / "a.safetensors"
    entries = list_files(folder)
    shard.unlink()
    shard.symlink_to(folder.parent / "secret")
    with pytest.raises(ArtifactError, match="do not trust it"):
        check_files(folder, entries)


def test_bytes_replace_an_older_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old")
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_the_file_is_json_that_people_can_read(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", RECORD)
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert json.loads(text)["count"] == 3
    assert "σ" in text
    assert text.endswith("}\n")


HOLD = """
import sys
from pathlib import Path
from typing import Literal
from diff_es.artifacts import held
with held(Path(sys.argv[1])) as mine:
    print("held" if mine else "busy", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds a file until it is told to end; returns when it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_file_is_held_by_one_process_and_falls_with_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    with held(path) as mine, held(path) as again:
        assert mine and not again, "the same process cannot have it twice either"
    with held(path) as mine:
        assert mine
    other = holder(path)
    with held(path) as mine:
        assert not mine
    with pytest.raises(InputError, match=f"{path.parent} is in use by another run"), locked(path.parent):
        pass
    other.kill()
    other.wait()
    with held(path) as mine:
        assert mine, "the lock of a killed process is no lock"


def test_a_held_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    other = holder(path)
    ending = threading.Timer(0.3, other.kill)
    ending.start()
    start = time.perf_counter()
    with held(path, wait=True) as mine:
        assert mine and time.perf_counter() - start > 0.25
    ending.join()
    other.wait()


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="Cannot write"), held(tmp_path / "file" / ".lock"):
        pass


@dataclass(frozen=True)
class Made:
    """Settings of a folder, as an older version wrote them and as this one does."""

    steps: int
    labels: tuple[int, ...]
    device: str = "cpu"
    format: Literal[2] = 2


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ('{"steps": 3, "labels": [1], "format": 2}', ""),
        ('{"steps": 4, "labels": [1], "format": 2, "device": "cpu"}', r"\(steps is 4 there, 3 here; see .*settings"),
        (
            '{"steps": 3, "labels": [1], "format": 1}',
            r"\(format is 1 there, 2 here; device is None there, 'cpu' here; ",
        ),
        (f'{{"steps": 3, "labels": {[7] * 100}, "format": 2, "device": "cpu"}}', r"\(labels differs; see"),
        ('{"steps": 3', "is no valid Made"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_they_are_named(tmp_path: Path, there: str, message: str) -> None:
    (tmp_path / "settings.json").write_text(there)
    with pytest.raises(InputError, match=message) if message else nullcontext():
        claim(tmp_path, Made(3, (1,)))


def test_slugs_are_distinct_file_names_in_order() -> None:
    given = ["searched, sensitivity", "dense", "Dense", "…", "", "../../etc", "OBS 50 %", "dense-2", "x" * 200]
    made = slugs(given)
    assert made == [
        "searched-sensitivity",
        "dense",
        "dense-2",
        "unnamed",
        "unnamed-2",
        "etc",
        "obs-50",
        "dense-2-2",
        "x" * 60,
    ]
    assert slugs(iter(given)) == made and slugs([]) == []


@given(st.lists(st.text()))
@example(["0" * 59 + ":0"])  # is cut right behind a hyphen
def test_any_names_make_slugs(names: list[str]) -> None:
    made = slugs(names)
    assert len(set(made)) == len(names)
    for slug in made:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug), slug
        assert len(slug) < 80


def test_tensors_are_written_without_a_copy_of_them_all(tmp_path: Path) -> None:
    """Statistics of a large model fill much of the memory already."""
    script = (
        "import re, sys, torch; from pathlib import Path; from diff_es.tensors import write_tensors\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "tensors = {str(i): torch.ones(2**20) for i in range(64)}\n"
        "write_tensors(Path(sys.argv[1]) / 'warm.safetensors', {'a': torch.ones(2**20)})\n"
        "before = peak(); write_tensors(Path(sys.argv[1]) / 'all.safetensors', tensors); print(peak() - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (tmp_path / "all.safetensors").stat().st_size > 64 * 2**22
    assert grown < 0.25 * 64 * 2**22
