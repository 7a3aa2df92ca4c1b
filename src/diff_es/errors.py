"""The errors that users meet. Each message names the argument, the value received and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class DiffESError(Exception):
    """Base of every error that Diff-ES raises on purpose; the command line prints it as one line."""


class InputError(DiffESError, ValueError):
    """An argument, a recipe entry or a data file cannot be used as given."""


class UnsupportedModelError(InputError):
    """The model (or its present state) cannot be pruned or routed."""


class ArtifactError(DiffESError):
    """A file or folder written by Diff-ES is damaged, incomplete, foreign or too new.

    Attributes:
        path: Which one, where whoever meets the error may know how to make it again.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        """Say what is wrong, and with what."""
        super().__init__(message)
        self.path = path


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was lacking, on a GPU or the host.

    By name and words: torch is not imported here, and on a CPU it says so by a plain RuntimeError.
    """
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
