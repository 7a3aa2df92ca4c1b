"""The journal of a search: one line per evaluated schedule, written before the search goes on.

The first line says what the fitness values depend on (format version, fingerprint, named facts, space, settings,
starts). Every line is one JSON object whose last entry is the CRC-32 of the rest of the line. A process that is killed
can leave at most one incomplete line at the end; opening the journal again cuts it off. Anything else that is wrong is
an error.

A schedule that could not be measured has a line too (its `failure` says why), but no fitness to rely on: it is measured
again when the search is resumed. If that succeeds, the search goes on as if it had been stopped at the failure: a line
says how many schedules still count (`rewound_to`), and its new line follows. What the search went on to without it is
set aside, and written again where it is asked for again. No line is ever removed, so that a kill loses nothing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diff_es.artifacts import differences, sync
from diff_es.errors import ArtifactError, InputError
from diff_es.schedule import Levels
from diff_es.search.base import Candidate, Outcome
from diff_es.search.journal_lines import (
    FINGERPRINTED,
    JournalEntry,
    JournalHeader,
    check_format,
    entry_from_json,
    entry_to_json,
    is_complete,
    seal,
)

logger = logging.getLogger(__name__)

#: The entry of a line that says how many of the schedules above still count.
_REWIND = "rewound_to"


class _RepeatedError(ValueError):
    """A schedule has two lines, and the first is no failure."""


@dataclass
class _Content:
    """What the lines of a journal say together.

    Attributes:
        entries: What counts, in the order of the search; of one that failed and was measured later, the last.
        aside: What was measured after a failure that was mended, and may be asked for again.
    """

    entries: dict[Levels, JournalEntry] = field(default_factory=dict)
    aside: dict[Levels, JournalEntry] = field(default_factory=dict)

    def read(self, line: dict[str, Any]) -> None:
        """Add one line."""
        if _REWIND in line:
            self.rewind(int(line[_REWIND]))
            return
        entry = entry_from_json(line)
        known = self.entries.get(entry.candidate.levels)
        if known is not None and not known.outcome.failure:
            raise _RepeatedError(entry.candidate.levels)
        self.enter(entry)

    def enter(self, entry: JournalEntry) -> None:
        """Add one entry, or put it in the place of a failed one."""
        self.entries[entry.candidate.levels] = entry
        self.aside.pop(entry.candidate.levels, None)

    def rewind(self, count: int) -> None:
        """Set all but the first entries aside."""
        for levels in list(self.entries)[count:]:
            entry = self.entries.pop(levels)
            if not entry.outcome.failure:
                self.aside[levels] = entry


class Journal:
    """An open journal; holds the lock of its file until it is closed. Use it as a context manager."""

    def __init__(self, path: Path, header: JournalHeader) -> None:
        """Create the journal, or open it to go on.

        Args:
            path: The file; its folder is created where it is missing.
            header: What the search depends on; must equal the header of an existing journal.

        Raises:
            InputError: another run has the journal open.
            ArtifactError: the file cannot be opened, is damaged, or belongs to another search.
        """
        self.path = path
        self.header = header
        self._content = _Content()
        #: Schedules that this search has asked for.
        self._asked: set[Levels] = set()
        with _disk_errors(path, "open"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._load()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock and close the file; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def entries(self) -> list[JournalEntry]:
        """Return the entries in the order in which they were written."""
        return list(self._content.entries.values())

    def reuse(self, candidate: Candidate, *, raced: bool = False) -> Outcome | None:
        """Return what is known of a candidate, or None; a failure is not held against it.

        What was set aside is written again, at its new place.

        Args:
            candidate: One that the search asks for. All of a batch come before the first of them is appended.
            raced: Whether it has a rival, on which its outcome depends then.

        Raises:
            ArtifactError: the schedule was evaluated at another place of the search, so the journal was not written
                by this search (for instance by a numpy whose generator draws other numbers).
        """
        self._asked.add(candidate.levels)
        spare = self._content.aside.pop(candidate.levels, None)
        if spare is not None and not raced and not spare.outcome.dropped:
            self.append(replace(spare, candidate=candidate))
        entry = self._content.entries.get(candidate.levels)
        if entry is None:
            return None
        if entry.candidate != candidate:
            raise ArtifactError(
                f"{self.path} was written by a search that went another way ({entry.candidate} there, {candidate} "
                "here); resume with the versions that it was started with, or start in another folder."
            )
        return None if entry.outcome.failure else entry.outcome

    def append(self, entry: JournalEntry) -> None:
        """Write one entry and push it to the disk.

        Raises:
            InputError: the schedule is in the journal already, and did not fail.
            ArtifactError: the disk is full or gone; what was written of the entry is taken back.
        """
        failed = self._content.entries.get(entry.candidate.levels)
        if failed is not None and not failed.outcome.failure:
            raise InputError(f"{entry.candidate} is in {self.path} already; each schedule is evaluated once.")
        if failed is not None and entry.outcome.failure:
            return
        if failed is not None:
            self._set_the_unasked_aside()
        self._write(seal(entry_to_json(entry)))
        self._content.enter(entry)

    def _set_the_unasked_aside(self) -> None:
        """Go back to the batch that is measured now; an earlier run of the search went on after it."""
        # Batches are written one after the other, so nothing that was asked for stands behind.
        count = len(self._content.entries.keys() & self._asked)
        if count < len(self._content.entries):
            self._write(seal({_REWIND: count}))
            self._content.rewind(count)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self.path} is in use by another run; wait for it, or choose another folder.") from error
        except OSError as error:
            raise ArtifactError(f"Cannot lock {self.path}: {error.strerror}; use a local disk.") from error

    def _load(self) -> None:
        """Read all lines, cut a torn tail off, and write the header where there is none."""
        content = self.path.read_bytes()
        header = seal(self.header.as_json())
        lines = content.splitlines(keepends=True)
        # A lone first line is only ours to cut off if it is the beginning of this header: never empty a foreign file.
        torn = lines and not is_complete(lines[-1]) and (len(lines) > 1 or header.startswith(lines[-1]))
        whole = lines[:-1] if torn else lines
        self._check_lines(whole)
        if torn:
            logger.warning("%s: cut off an incomplete last line; its candidate is evaluated again.", self.path)
            self._truncate(sum(map(len, whole)))
        if not whole:
            self._write(header)
            with _disk_errors(self.path, "write"):
                sync(self.path.parent)

    def _check_lines(self, lines: Sequence[bytes]) -> None:
        """Check every line and read the entries."""
        for number, line in enumerate(lines, start=1):
            if not is_complete(line):
                what = "is damaged (its checksum differs)" if number > 1 else "is damaged, or the file is no journal"
                raise ArtifactError(f"{self.path}: line {number} {what}; restore the file or choose another folder.")
        if lines:
            self._check_header(json.loads(lines[0]))
            self._read_lines(lines[1:])

    def _check_header(self, found: dict[str, Any]) -> None:
        check_format(self.path, found)
        found.pop("crc32", None)
        others = differences(found, self.header.as_json())
        if others:
            other = found.get("fingerprint") != self.header.fingerprint
            condensed = f"The fingerprint stands for {FINGERPRINTED}. " if other else ""
            raise ArtifactError(
                f"{self.path} belongs to another search: {'; '.join(others)}. "
                f"{condensed}Resume with the settings of that search, or choose another folder."
            )

    def _read_lines(self, lines: Sequence[bytes]) -> None:
        for number, line in enumerate(lines, start=2):
            try:
                self._content.read(json.loads(line))
            except _RepeatedError as error:
                raise ArtifactError(f"{self.path}: line {number} repeats the schedule {error}.") from error
            except (KeyError, TypeError, ValueError) as error:
                raise ArtifactError(f"{self.path}: line {number} is no evaluated schedule ({error}).") from error

    def _write(self, line: bytes) -> None:
        """Append a line durably, or leave the file as it was."""
        start = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            with _disk_errors(self.path, "write"):
                rest = line
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                os.fsync(self._descriptor)
        except ArtifactError:
            self._truncate(start)
            raise

    def _truncate(self, size: int) -> None:
        with _disk_errors(self.path, "write"):
            os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)


def read_entries(path: Path) -> list[JournalEntry]:
    """Read a journal's entries without holding it; an incomplete last line is left out.

    Raises:
        ArtifactError: the file cannot be read, is no journal of this format version, or a line is damaged.
    """
    with _disk_errors(path, "read"):
        lines = path.read_bytes().splitlines(keepends=True)
    whole = lines if not lines or is_complete(lines[-1]) else lines[:-1]
    if not all(map(is_complete, whole)):
        raise ArtifactError(f"{path} is damaged (a checksum differs).")
    if whole:
        check_format(path, json.loads(whole[0]))
    content = _Content()
    for line in whole[1:]:
        content.read(json.loads(line))
    return list(content.entries.values())


@contextmanager
def _disk_errors(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"Cannot {verb} {path}: {error.strerror or error}.") from error
