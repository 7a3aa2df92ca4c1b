"""The process behind a worker: who it is, what it said last, whether it is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Characters that are kept of what a dead worker wrote, and bytes at the end of the file that they are looked for in.
_WORDS, _END = 600, 2**16
#: Lines with a colon in front are Ray's own marks; faulthandler ends with a list of hundreds of modules.
_NOISE = (":", "Extension modules:")


@dataclass(frozen=True)
class Process:
    """A worker's process.

    Attributes:
        pid: Its number.
        node: The machine, by Ray's name.
        errors: The file that its standard error goes to.
        place: The machine and its GPU, for people.
    """

    pid: int
    node: str
    errors: str
    place: str

    @classmethod
    def own(cls) -> Process:
        """Describe this process, a worker of Ray's."""
        errors, context = Path(f"/proc/{os.getpid()}/fd/2"), ray.get_runtime_context()
        gpus = "".join(f", GPU {index}" for index in context.get_accelerator_ids().get("GPU", []))
        return cls(
            pid=os.getpid(),
            node=context.get_node_id(),
            errors=str(errors.readlink()) if errors.exists() else "",
            place=ray.util.get_node_ip_address() + gpus,
        )

    def last_words(self) -> str:
        """Return the end of what it wrote, where that can be read on this machine; else nothing."""
        path = Path(self.errors)
        if not self.errors or not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _END))
            text = file.read().decode(errors="replace")
        return _telling([line.strip() for line in text.splitlines() if line and not line.startswith(_NOISE)])

    def kill(self, here: str) -> Callable[[], bool]:
        """Kill it, and return what says whether it is gone.

        Args:
            here: The machine that asks.
        """
        if self.node == here:
            # Ray asks a process to end, and one that is stopped does not listen. A cluster may run as another user.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)
            return lambda: is_gone(self.pid)
        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_wait_until_gone)
        # An error is an answer too: the whole machine is gone.
        call = look.remote(self.pid)
        return lambda: bool(ray.wait([call], timeout=0)[0])


def _telling(lines: list[str]) -> str:
    """Return the part of an output that tells most: the stack of a crash from its innermost frame on, else the end."""
    crashes = [index for index, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if not crashes:
        return " / ".join(lines)[-_WORDS:]
    crash, *dump = lines[crashes[-1] :]
    # Those of other threads may come first.
    own = next((index for index, line in enumerate(dump) if line.startswith("Current thread")), 0)
    return " / ".join([crash, *dump[own:]])[:_WORDS]


def is_gone(pid: int) -> bool:
    """Whether a process of this machine has ended; one that only waits for its parent to notice has."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait_until_gone(pid: int) -> None:
    while not is_gone(pid):
        time.sleep(0.1)
