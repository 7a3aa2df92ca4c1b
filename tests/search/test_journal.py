"""The journal: torn tails are cut off, other damage is refused, a resumed search equals an uninterrupted one."""

from __future__ import annotations

import json
import logging
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from diff_es.errors import ArtifactError, InputError
from diff_es.schedule import Levels
from diff_es.search import Candidate, EvolutionConfig, Journal, JournalEntry, JournalHeader, Outcome, search_schedule
from diff_es.search.journal import read_entries

from .journals import sorted_keys
from .spaces import space_of

SPACE = space_of((2, 2, 1, 3), 6, 0.5)
CONFIG = EvolutionConfig(generations=3, offspring=6, seed=5)
HEADER = JournalHeader("model 7, probes 3", SPACE, CONFIG)


def rough(levels: Levels) -> float:
    """A landscape without structure, with unusable spots."""
    value = random.Random(repr(levels)).gauss(0, 1)
    return math.nan if value < -1 else value


class InterruptedRunError(Exception):
    """Stands for whatever ends a run in the middle of a fitness evaluation."""


def rough_until(limit: int) -> object:
    """`rough`, but the evaluation after `limit` of them does not come back."""
    left = iter(range(limit))

    def fitness(levels: Levels) -> float:
        if next(left, None) is None:
            raise InterruptedRunError
        return rough(levels)

    return fitness


def entry(levels: Levels, fitness: float, child: int = 0) -> JournalEntry:
    return JournalEntry(Candidate(levels, 0, child), Outcome(fitness, 40, 12), 0.25)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        search_schedule(rough, SPACE, CONFIG, journal)
    return path


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    values = [0.1 + 0.2, -1e-310, math.nan, math.inf, -math.inf]
    entries = [entry((child, 0, 0, 0), value, child) for child, value in enumerate(values)]
    with Journal(tmp_path / "j", HEADER) as journal:
        for one in entries:
            journal.append(one)
    with Journal(tmp_path / "j", HEADER) as journal:
        assert [one.key for one in journal.entries()] == [one.key for one in entries]
        assert [repr(one.outcome.fitness) for one in journal.entries()] == [repr(value) for value in values]
        assert journal.entries()[0] == entries[0]


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    """To the last bit: a search that goes on compares with them."""
    scores = (0.1 + 0.2, -1e-310, math.inf, -math.inf, math.nan, 2 / 3)
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(JournalEntry(Candidate((3, 0, 0, 0), 0, 0), Outcome(0.5, scores=scores), 0.25))
    assert "NaN" not in (tmp_path / "j").read_text(), "JSON has no NaN"
    assert [repr(score) for score in read_entries(tmp_path / "j")[0].outcome.scores] == [*map(repr, scores)]


def test_entries_are_read_without_holding_the_journal(written: Path, tmp_path: Path) -> None:
    """Also while the search goes on, which holds it."""
    with Journal(written, HEADER) as journal:
        assert [repr(one) for one in read_entries(written)] == [repr(one) for one in journal.entries()]  # NaN ≠ NaN
    whole = written.read_bytes()
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as growing:
        assert read_entries(path) == []
        growing.append(entry((1, 2, 3, 4), 0.5))
        assert read_entries(path) == [entry((1, 2, 3, 4), 0.5)]
    assert written.read_bytes() == whole, "reading changes nothing"


def test_a_torn_tail_is_left_out_of_what_is_read(written: Path, tmp_path: Path) -> None:
    content, entries = written.read_bytes(), read_entries(written)
    starts = [0, *(i + 1 for i, byte in enumerate(content) if byte == ord("\n"))]
    path = tmp_path / "journal.jsonl"
    for cut in {*range(starts[3], starts[4] + 1), *range(0, starts[1], 7), *starts}:
        path.write_bytes(content[:cut])
        lines = max(sum(start <= cut for start in starts[1:]) - 1, 0)
        assert [one.key for one in read_entries(path)] == [one.key for one in entries[:lines]]
        assert path.stat().st_size == cut, "nothing is cut off: the search that writes it may be alive"


@pytest.mark.parametrize("line", [0, 1, 4])
def test_damage_before_the_tail_is_named(written: Path, tmp_path: Path, line: int) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    path = tmp_path / "journal.jsonl"
    for at in (1, len(lines[line]) // 2, len(lines[line]) - 1):
        damaged = bytearray(lines[line])
        damaged[at] ^= 1
        path.write_bytes(b"".join([*lines[:line], damaged, *lines[line + 1 :]]))
        with pytest.raises(ArtifactError, match=r"journal\.jsonl is damaged \(a checksum differs\)"):
            read_entries(path)


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"Cannot read .*nowhere\.jsonl"):
        read_entries(tmp_path / "nowhere.jsonl")


def test_every_line_is_plain_json(written: Path) -> None:
    header, *lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert header["fingerprint"] == "model 7, probes 3"
    assert header["config"]["offspring"] == 6
    keys = {
        "levels",
        "fitness",
        "generation",
        "child",
        "seconds",
        "denoiser_calls",
        "replayed_calls",
        "scores",
        "dropped",
        "failure",
        "crc32",
    }
    assert all(line.keys() == keys for line in lines)
    assert {line["fitness"] for line in lines if isinstance(line["fitness"], str)} == {"nan"}


def test_resuming_after_any_number_of_evaluations_equals_an_uninterrupted_run(written: Path, tmp_path: Path) -> None:
    with Journal(written, HEADER) as journal:
        canonical = sorted_keys(journal)
        finished = search_schedule(rough_until(0), SPACE, CONFIG, journal)  # type: ignore[arg-type]  # nothing is left to evaluate
    assert finished == search_schedule(rough, SPACE, CONFIG)
    for k in range(len(canonical)):
        with Journal(tmp_path / f"{k}", HEADER) as journal, pytest.raises(InterruptedRunError):
            search_schedule(rough_until(k), SPACE, CONFIG, journal)  # type: ignore[arg-type]
        with Journal(tmp_path / f"{k}", HEADER) as journal:
            assert len(journal.entries()) == k
            resumed = search_schedule(rough_until(len(canonical) - k), SPACE, CONFIG, journal)  # type: ignore[arg-type]
            assert resumed == finished
            assert sorted_keys(journal) == canonical


def test_generations_replayed_from_the_journal_are_reported_too(written: Path) -> None:
    reported: list[int] = []
    with Journal(written, HEADER) as journal:
        search_schedule(rough, SPACE, CONFIG, journal, lambda record: reported.append(record.generation))
    assert reported == [0, 1, 2, 3]


def test_a_tail_torn_at_any_byte_is_cut_off(written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = written.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    count = content.count(b"\n") - 1
    for cut in range(start, len(content)):
        path = tmp_path / "torn"
        path.write_bytes(content[:cut])
        caplog.clear()
        with caplog.at_level(logging.WARNING), Journal(path, HEADER) as journal:
            assert len(journal.entries()) == count - 1
        assert path.read_bytes() == content[:start]
        assert ("incomplete last line" in caplog.text) == (cut > start)


def test_a_last_line_with_a_wrong_checksum_is_cut_off(written: Path, tmp_path: Path) -> None:
    content = bytearray(written.read_bytes())
    start = content.rindex(b"\n", 0, -1) + 1
    content[start + 12] ^= 1
    path = tmp_path / "torn"
    path.write_bytes(content)
    with Journal(path, HEADER) as journal:
        search_schedule(rough, SPACE, CONFIG, journal)
        canonical = sorted_keys(journal)
    with Journal(written, HEADER) as journal:
        assert sorted_keys(journal) == canonical


def test_a_torn_header_is_written_again_but_a_foreign_file_is_left_alone(written: Path, tmp_path: Path) -> None:
    header = written.read_bytes().split(b"\n")[0] + b"\n"
    path = tmp_path / "journal"
    for cut in (0, *range(1, len(header), 9), len(header) - 1):
        path.write_bytes(header[:cut])
        with Journal(path, HEADER) as journal:
            assert not journal.entries()
        assert path.read_bytes() == header
    for foreign in (b"notes of a user", b"a,b\n1,2\n3,4", b"{}\n", b"\x00\xff\n\n", header[:20] + b"x"):
        path.write_bytes(foreign)
        with pytest.raises(ArtifactError, match="line 1 is damaged, or the file is no journal"):
            Journal(path, HEADER)
        assert path.read_bytes() == foreign


def test_a_flipped_byte_in_any_line_but_the_last_is_refused(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    lines = content.splitlines(keepends=True)
    path = tmp_path / "flipped"
    for number in (1, 2, len(lines) // 2, len(lines) - 1):
        start = sum(map(len, lines[: number - 1]))
        for at in range(start, start + len(lines[number - 1]) - 1, 3):
            flipped = bytearray(content)
            flipped[at] ^= 4
            path.write_bytes(flipped)
            with pytest.raises(ArtifactError, match=f"line {number} is damaged"):
                Journal(path, HEADER)
            assert path.read_bytes() == flipped


def test_a_removed_or_repeated_line_is_noticed(written: Path, tmp_path: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    path = tmp_path / "journal"
    path.write_bytes(b"".join([*lines[:5], lines[3], *lines[5:]]))
    with pytest.raises(ArtifactError, match="line 6 repeats the schedule"):
        Journal(path, HEADER)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (replace(HEADER, fingerprint="model 8"), "fingerprint is 'model 7, probes 3' there, 'model 8' here"),
        (replace(HEADER, space=space_of((2, 2, 1, 3), 6, 0.25)), r"space.sparsity is 0.5 there, 0.25 here"),
        (replace(HEADER, config=replace(CONFIG, seed=6)), "config.seed is 5 there, 6 here"),
        (replace(HEADER, starts=((1, 2, 3, 4),)), "starts is .* there"),
        (replace(HEADER, fitness={"device": "cuda"}), "fitness.device is None there, 'cuda' here"),
    ],
)
def test_a_journal_of_another_search_is_refused(written: Path, header: JournalHeader, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Journal(written, header)


@pytest.mark.parametrize("version", [2, 4])
def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    with monkeypatch.context() as other:
        other.setattr("diff_es.search.journal_lines.VERSION", version)
        Journal(tmp_path / "j", HEADER).close()
    with pytest.raises(ArtifactError, match=f"format version {version}, this Diff-ES reads 3"):
        Journal(tmp_path / "j", HEADER)
    with pytest.raises(ArtifactError, match=f"format version {version}, this Diff-ES reads 3"):
        read_entries(tmp_path / "j")


def test_two_runs_on_one_journal_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", HEADER):
        with pytest.raises(InputError, match="in use by another run"):
            Journal(tmp_path / "j", HEADER)
        program = (
            "import sys; from search.test_journal import *\n"
            "try: Journal(Path(sys.argv[1]), HEADER)\n"
            "except InputError as error: print(error)"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "j")]
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        assert "in use by another run" in output.stdout
    Journal(tmp_path / "j", HEADER).close()


def test_a_full_disk_is_an_error_and_the_journal_stays_readable(tmp_path: Path) -> None:
    """The limit on file size makes the kernel refuse the write half-way, as a full disk does."""
    path = tmp_path / "j"
    program = (
        "import resource, sys; from search.test_journal import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))\n"
        "with Journal(Path(sys.argv[1]), HEADER) as journal:\n"
        "    try: search_schedule(rough, SPACE, CONFIG, journal)\n"
        "    except ArtifactError as error: print(error)\n"
        "    size = Path(sys.argv[1]).stat().st_size\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "    print(size, len(journal.entries()))\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    message, numbers = output.stdout.splitlines()
    assert message == f"Cannot write {path}: File too large."
    size, count = map(int, numbers.split())
    assert 1500 < size == path.stat().st_size <= 2000
    with Journal(path, HEADER) as journal:
        assert len(journal.entries()) == count > 0
        assert search_schedule(rough, SPACE, CONFIG, journal) == search_schedule(rough, SPACE, CONFIG)


def test_a_folder_in_place_of_the_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Cannot open"):
        Journal(tmp_path, HEADER)


def test_a_schedule_is_appended_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(entry((1, 2, 3, 4), 0.5))
        with pytest.raises(InputError, match="already"):
            journal.append(entry((1, 2, 3, 4), 0.5))


def test_a_search_that_went_another_way_is_not_resumed(written: Path, tmp_path: Path) -> None:
    with Journal(written, HEADER) as journal:
        first, second, *_ = journal.entries()
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(replace(first, candidate=replace(first.candidate, child=second.candidate.child)))
        with pytest.raises(ArtifactError, match="went another way"):
            search_schedule(rough, SPACE, CONFIG, journal)


def test_a_journal_opened_for_another_search_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", HEADER) as journal, pytest.raises(InputError, match="another space, config or starts"):
        search_schedule(rough, SPACE, replace(CONFIG, seed=1), journal)
