"""Workers of a real run that die or hang on certain candidates."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diff_es.run import Session
from diff_es.run.workers import OpenSession
from diff_es.schedule import Levels
from diff_es.search import Outcome, Rival


@dataclass(frozen=True, kw_only=True)
class OpenFaulty(OpenSession):
    """Opens a session with faults.

    Attributes:
        marks: Folder that remembers what has happened, and counts what was scored.
        killed: Kills the first worker that scores it, half-way.
        hung: Hangs the first worker that scores it.
        poison: Kills every worker that scores it.
    """

    marks: Path
    killed: Levels = ()
    hung: Levels = ()
    poison: Levels = ()

    def session(self) -> Session:
        return _FaultySession(self)


class _FaultySession(Session):
    def __init__(self, faults: OpenFaulty) -> None:
        super().__init__(faults.recipe, faults.folder, stock=faults.stock)
        self._faults = faults

    def fitness(self, allocation: str) -> Any:
        return _FaultyFitness(super().fitness(allocation), self._faults)


@dataclass
class _FaultyFitness:
    real: Any
    faults: OpenFaulty
    scored: list[Levels] = field(default_factory=list)

    def __call__(self, levels: Levels, rival: Rival | None = None) -> Outcome:
        if levels == self.faults.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if levels == self.faults.hung and self._first("hung"):
            time.sleep(600)
        if levels == self.faults.killed and self._first("killed"):
            threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
            self.real(levels, rival)
            time.sleep(600)
        return self.real(levels, rival)

    def _first(self, name: str) -> bool:
        """Whether this has not happened before, in any process."""
        mark = self.faults.marks / name
        known = mark.exists()
        mark.touch()
        return not known
