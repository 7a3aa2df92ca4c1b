"""The errors that users meet. Each message names the argument, the value received and the way out."""

from __future__ import annotations


class DiffESError(Exception):
    """Base of every error that Diff-ES raises on purpose; the command line prints it as one line."""


class InputError(DiffESError, ValueError):
    """An argument, a recipe entry or a data file cannot be used as given."""


class UnsupportedModelError(InputError):
    """The model (or its present state) cannot be pruned or routed."""


class ArtifactError(DiffESError):
    """A file or folder written by Diff-ES is damaged, incomplete, foreign or too new."""
