"""What tests compare of journals."""

from __future__ import annotations

from diff_es.schedule import Levels
from diff_es.search import Journal


def sorted_keys(journal: Journal) -> list[tuple[int, int, Levels, str]]:
    """The keys of all entries: equal for an uninterrupted and for a resumed search."""
    return sorted(entry.key for entry in journal.entries())
