"""The lines of a search's journal: what its first one says, what one says of a schedule, and the checksum of each."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diff_es.errors import ArtifactError
from diff_es.schedule import Levels, ScheduleSpace
from diff_es.search.base import Candidate, Outcome

FORMAT = "diff-es search journal"
VERSION = 3
#: What the fingerprint of a run's searches is made of.
FINGERPRINTED = "model, bank, allocation and prompts"
_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}$')


@dataclass(frozen=True)
class JournalEntry:
    """One evaluated schedule.

    Attributes:
        candidate: The schedule and its place in the search.
        outcome: Its fitness, on each probe too, and the denoiser calls that were run and replayed for it.
        seconds: How long the evaluation took.
    """

    candidate: Candidate
    outcome: Outcome
    seconds: float

    @property
    def key(self) -> tuple[int, int, Levels, str]:
        """What a resumed search repeats exactly: generation, child, levels, fitness (as text, so that NaN equals NaN).

        Time and the split into calls run and replayed are left out: after a restart the replay memory is empty.
        """
        return (self.candidate.generation, self.candidate.child, self.candidate.levels, repr(self.outcome.fitness))


@dataclass(frozen=True)
class JournalHeader:
    """What the fitness values and the way of the search depend on.

    Attributes:
        fingerprint: What is behind the fitness and has no short name, as the caller condenses it (`FINGERPRINTED`); no
            versions: a run can be resumed after an upgrade.
        space: The searched space.
        config: The settings of the algorithm (a dataclass of plain values).
        starts: The schedules that the user gave to start from.
        algorithm: Name of the algorithm where its settings do not tell; empty stands for the type of `config`.
        fitness: What else is behind the fitness, by name, as plain JSON values.
    """

    fingerprint: str
    space: ScheduleSpace
    config: Any
    starts: tuple[Levels, ...] = ()
    algorithm: str = ""
    fitness: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the header line's content."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "fitness": dict(self.fitness),
            "space": asdict(self.space),
            "algorithm": self.algorithm or type(self.config).__name__,
            "config": asdict(self.config),
            "starts": self.starts,
        }
        parsed: dict[str, Any] = json.loads(json.dumps(content))  # tuples become lists, as in a file that was read
        return parsed


def check_format(path: Path, header: dict[str, Any]) -> None:
    """Check that the first line is that of a journal of this version.

    Raises:
        ArtifactError: it is another file's, or another version's.
    """
    if header.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not the journal of a search.")
    if header.get("version") != VERSION:
        raise ArtifactError(
            f"{path} has format version {header.get('version')}, this Diff-ES reads {VERSION}; "
            "use the version of Diff-ES that wrote it, or choose another folder."
        )


def seal(content: dict[str, Any]) -> bytes:
    """Return the line of an object: compact JSON whose last entry is the CRC-32 of the JSON without it."""
    body = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)


def is_complete(line: bytes) -> bool:
    """Whether a line ends with a line break and with the checksum of what stands before."""
    match = _CHECKSUM.search(line[:-1]) if line.endswith(b"\n") else None
    return match is not None and zlib.crc32(line[: match.start()] + b"}") == int(match[1], 16)


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity: they are written as the words that float() reads."""
    return value if math.isfinite(value) else repr(value)


def entry_to_json(entry: JournalEntry) -> dict[str, Any]:
    """Return what a line says of a schedule."""
    return {
        "levels": entry.candidate.levels,
        "fitness": _number(entry.outcome.fitness),
        "generation": entry.candidate.generation,
        "child": entry.candidate.child,
        "seconds": entry.seconds,
        "denoiser_calls": entry.outcome.denoiser_calls,
        "replayed_calls": entry.outcome.replayed_calls,
        "scores": [_number(score) for score in entry.outcome.scores],
        "dropped": entry.outcome.dropped,
        "failure": entry.outcome.failure,
    }


def entry_from_json(content: dict[str, Any]) -> JournalEntry:
    """Read what a line says of a schedule.

    Raises:
        KeyError, TypeError, ValueError: it says something else.
    """
    levels = tuple(int(level) for level in content["levels"])
    outcome = Outcome(
        fitness=float(content["fitness"]),
        denoiser_calls=int(content["denoiser_calls"]),
        replayed_calls=int(content["replayed_calls"]),
        scores=tuple(float(score) for score in content["scores"]),
        dropped=bool(content["dropped"]),
        failure=str(content.get("failure", "")),
    )
    candidate = Candidate(levels, int(content["generation"]), int(content["child"]))
    return JournalEntry(candidate, outcome, float(content["seconds"]))
