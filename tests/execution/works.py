"""Works for tests, on a worker that is a list of what it has done."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from diff_es.errors import InputError


@dataclass(frozen=True)
class MakeList:
    """The factory of such workers."""

    def __call__(self) -> list[object]:
        return []


@dataclass(frozen=True)
class Square:
    number: int
    seconds: float = 0.0

    def __call__(self, done: list[object]) -> int:
        time.sleep(self.seconds)
        done.append(self.number)
        return self.number**2


@dataclass(frozen=True)
class WhoAmI:
    """Takes long enough for every worker to get one."""

    def __call__(self, done: list[object]) -> int:
        time.sleep(0.3)
        return os.getpid()


@dataclass(frozen=True)
class Die:
    """Kills its process, always or the first time only.

    Attributes:
        once: A file that says that it has been done.
    """

    once: Path | None = None

    def __call__(self, done: list[object]) -> str:
        if self.once is None or not self.once.exists():
            if self.once is not None:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"


@dataclass(frozen=True)
class MakeOneBroken:
    """Makes workers, of which one at a time has a broken GPU: whoever comes in its place has it again.

    Attributes:
        gpu: A file that stands for the broken GPU; the process that has it locks it.
    """

    gpu: Path

    def __call__(self) -> list[object]:
        file = self.gpu.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        return [file]


@dataclass(frozen=True)
class UseGpu:
    """Kills a worker whose GPU is broken, before the others are done, or raises what its driver says."""

    error: Exception | None = None

    def __call__(self, worker: list[object]) -> None:
        if worker and self.error is not None:
            raise self.error
        if worker:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)


@dataclass(frozen=True)
class Crash:
    """Reads memory that is not there, with other threads around and many modules loaded."""

    def __call__(self, done: list[object]) -> None:
        os.write(2, b"a long way\n" * 20_000)
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        ctypes.string_at(0)


@dataclass(frozen=True)
class Raise:
    """Raises the same on every worker."""

    error: Exception

    def __call__(self, done: list[object]) -> None:
        raise self.error


@dataclass(frozen=True)
class Refuse:
    def __call__(self, done: list[object]) -> None:
        raise InputError("this cannot be used.")


class CodedError(Exception):
    """Cannot be unpickled, as those of some libraries cannot."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class RaiseCoded:
    def __call__(self, done: list[object]) -> None:
        raise CodedError("no weights in /models", code=3)


class Unreadable:
    """Can be pickled and not unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("no number",)


@dataclass(frozen=True)
class ReturnUnreadable:
    def __call__(self, done: list[object]) -> object:
        return Unreadable()


@dataclass(frozen=True)
class ReturnLock:
    """Returns what cannot be pickled."""

    def __call__(self, done: list[object]) -> object:
        return threading.Lock()


@dataclass(frozen=True)
class RaiseLock:
    """Raises what cannot be pickled."""

    def __call__(self, done: list[object]) -> None:
        raise RuntimeError(threading.Lock())


@dataclass(frozen=True)
class RefuseToOpen:
    def __call__(self) -> list[object]:
        raise InputError("model='nowhere' cannot be loaded.")


@dataclass(frozen=True)
class DieOpening:
    def __call__(self) -> list[object]:
        os.write(2, b"out of memory on the device\n")
        os.kill(os.getpid(), signal.SIGKILL)
        return []
