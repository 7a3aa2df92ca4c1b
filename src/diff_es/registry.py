"""Name → object. Duplicates are refused; an unknown name is answered with the nearest known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from diff_es.errors import InputError

T = TypeVar("T")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the tail of an error message: the near misses of `name`, then everything that is known."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names)}."


class Registry(Generic[T]):
    """A dictionary with manners, used where users may add their own entries."""

    def __init__(self, kind: str) -> None:
        """Create an empty registry; `kind` is the word for one entry, used in messages ("metric")."""
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add `entry` under `name` and return it.

        Raises:
            InputError: `name` is taken.
        """
        if name in self._entries:
            raise InputError(f"{self.kind} {name!r} is already registered; choose another name.")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """Return the entry.

        Raises:
            InputError: no such name; the message holds near misses.
        """
        if name not in self._entries:
            raise InputError(f"Unknown {self.kind} {name!r}: {suggest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
