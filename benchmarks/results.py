"""Results of benchmarks: printed as one JSON object in the last line, and kept with what produced them."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from diff_es.evaluation import environment

ROOT = Path(__file__).parent.parent


def add_output_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="also write the result to this file")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")


def finish(numbers: dict[str, Any], output: Path | None, device: str = "cpu") -> None:
    """Print and keep the numbers with command, commit, date and environment; `device` is where they were measured."""
    record = _record(numbers, device)
    _write(record, output)
    print(json.dumps(record))


def keep_so_far(numbers: dict[str, Any], output: Path | None, device: str = "cpu") -> None:
    """Keep what a benchmark has measured before its end, which may not come: its time may be limited."""
    _write(_record(numbers, device) | {"unfinished": True}, output)


def _record(numbers: dict[str, Any], device: str) -> dict[str, Any]:
    # Where the result is written is the caller's affair, and may be a path of their machine.
    arguments = [a for a, before in zip(sys.argv[1:], sys.argv, strict=False) if "--json" not in (a, before)]
    command = shlex.join(["python", sys.argv[0], *arguments])
    return {
        **numbers,
        "command": command,
        **_CODE,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": _environment(device),
    }


@cache
def _environment(device: str) -> dict[str, Any]:
    return asdict(environment(torch.device(device)))


def _write(record: dict[str, Any], output: Path | None) -> None:
    """Write a file that is complete at any moment, for the process may be killed at any."""
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f"{output.name}.part")
    beside.write_text(json.dumps(record, indent=2) + "\n")
    beside.replace(output)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def code() -> dict[str, Any]:
    """Which code runs; a copy without git says so itself, by the variable DIFF_ES_COMMIT, or it is not known."""
    if "DIFF_ES_COMMIT" in os.environ:
        return {"commit": os.environ["DIFF_ES_COMMIT"], "uncommitted_changes": False}
    try:
        changes = bool(_git("status", "--porcelain", "--", "src", "benchmarks"))
        return {"commit": _git("rev-parse", "HEAD"), "uncommitted_changes": changes}
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository
        return {"commit": "unknown", "uncommitted_changes": None}


#: Read at the start: the checkout may move on while a benchmark runs.
_CODE = code()
