"""What the pages of results share: reading the JSON files, and writing Markdown."""

from __future__ import annotations

import json
from typing import Any

from results import ROOT

FOLDER = ROOT / "docs" / "results"


def has(name: str) -> bool:
    """Whether a benchmark's result is kept."""
    return (FOLDER / f"{name}.json").exists()


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def origin(record: dict[str, Any]) -> str:
    environment = record["environment"]
    where = f"{environment['device']}, {environment['threads']} threads, torch {environment['packages']['torch']}"
    ended = " · ended before it was through" if record.get("unfinished") else ""
    return f"\n`{record['command']}` · commit {record['commit'][:10]} · {record['date'][:10]} · {where}{ended}\n"


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
