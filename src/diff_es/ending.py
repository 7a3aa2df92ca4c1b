"""How the command line ends before it is done: by a signal, or with one message for an error."""

from __future__ import annotations

import os
import signal
import sys
import traceback

from diff_es.errors import DiffESError, is_out_of_memory

_STDERR = 2
_LESS_MEMORY = (
    "Take less at once: a smaller search.batch_size, evaluation.batch_size or calibration.batch_size (--batch-size of "
    "`evaluate` and `bench`), a lower calibration.memory_limit_gib, or a smaller dtype of the model, such as bfloat16."
)


def end_on_signals(advice: str) -> list[int]:
    """End on Ctrl-C and termination; what was written so far stays.

    Args:
        advice: What is said behind "stopped".

    Returns:
        The signals that have come, empty at first.
    """
    stopped_by: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped_by.append(number)
        # Not by a stream: the signal may have come while it is being written to, and it refuses a second writer.
        os.write(_STDERR, f"{signal.strsignal(number)}: stopped{advice}\n".encode())
        sys.exit(exit_code(number))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped_by


def exit_code(number: int) -> int:
    """Return the shell's exit code for a signal."""
    return 128 + number


def message_of(error: BaseException) -> str | None:
    """Return what to say of an error that its reader can do something about; None of any other."""
    if isinstance(error, DiffESError):
        return str(error)
    if is_out_of_memory(error):
        first = traceback.format_exception_only(error)[0].splitlines()[0]
        return f"Not enough memory. {_LESS_MEMORY} ({first})"
    return None
