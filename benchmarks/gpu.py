"""Everything that is worth measuring on a GPU, in eight minutes: `make bench-gpu`.

Each benchmark is a command of its own that leaves a JSON file; what they found is printed as one table. A benchmark
that fails or takes too long is said so in its row, with what it had measured until then, and the others go on. Whoever
ends early leaves the rest of its time to those after it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from results import ROOT

BENCHMARKS = Path(__file__).parent
#: Name of the result → (seconds that it may take, command); all together, less than eight minutes.
COMMANDS: dict[str, tuple[int, str]] = {
    "inference_dit-xl_gpu": (
        65,
        "inference.py dit-xl --dtype float16 --schedule uniform --batch-sizes 1 8 32 --repeats 5 --ways graphs",
    ),
    "inference_dit-xl_gpu_compiled": (
        100,
        "inference.py dit-xl --dtype float16 --schedule uniform --batch-sizes 8 1 --repeats 5 "
        "--ways compiled-blocks-graphs",
    ),
    "candidate_cost_dit-xl_gpu": (
        120,
        "candidate_cost.py --model dit-xl --dtype float16 --probes 64 --batch-size 64 --generations 2",
    ),
    "memory_dit-xl_gpu": (65, "memory.py dit-xl --batch-size 8 --settings dense stream gather stitched"),
    "inference_dit-xl_blocks_gpu": (
        40,
        "inference.py dit-xl --dtype float16 --pruning blocks --schedule uniform --batch-sizes 1 8 --repeats 5 "
        "--ways graphs",
    ),
    "obs_solver_dit-xl_gpu": (30, "obs_solver.py --rows 1152 --columns 4608 --plain-removals 8 --repeats 3"),
    # All 20 steps: with fewer, a stage would be switched at every call.
    "inference_dit-xl_gpu_eager": (
        50,
        "inference.py dit-xl --dtype float16 --schedule uniform --batch-sizes 1 --repeats 2 --ways eager",
    ),
}
#: Schedules of the search whose cost is extrapolated.
CANDIDATES = 1600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "performance")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("make bench-gpu needs a CUDA device, and torch finds none.")
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    failures, spare = {}, 0.0
    for name in arguments.only:
        started, limit = time.perf_counter(), COMMANDS[name][0] + spare
        failure = run(name, output / f"{name}.json", arguments.device, limit)
        taken = time.perf_counter() - started
        spare = max(0.0, limit - taken)
        print(f"{name}: {failure or 'done'} ({taken:.0f} of {limit:.0f} s)", flush=True)
        if failure:
            failures[name] = failure
    print(table(output, arguments.only, failures))
    sys.exit(1 if failures else 0)


def run(name: str, output: Path, device: str, limit: float) -> str:
    """Run one benchmark for so many seconds at most; return what went wrong, or nothing."""
    command = COMMANDS[name][1]
    output.unlink(missing_ok=True)  # figures of an earlier commit must not pass for those of this one
    arguments = [sys.executable, *command.split(), "--device", device, "--json", str(output)]
    try:
        done = subprocess.run(arguments, cwd=BENCHMARKS, timeout=limit, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired as expired:
        print((expired.stdout or b"").decode(errors="replace")[-2000:], flush=True)
        return f"took more than {limit:.0f} s"
    if done.returncode:
        print(done.stdout[-1000:], done.stderr[-3000:], sep="\n", flush=True)
        return f"exit code {done.returncode}"
    return ""


def table(output: Path, names: Sequence[str], failures: dict[str, str]) -> str:
    """One line per figure of these benchmarks: name, measured, wanted; and one per failure."""
    lines = [f"{'figure':<62} {'measured':>10}   wanted", "-" * 92]
    for name in names:
        if name in failures:
            lines.append(f"{name:<62} {failures[name]:>10}")
        path = output / f"{name}.json"
        if path.exists():
            record: dict[str, Any] = json.loads(path.read_text())
            figures = FIGURES[record["benchmark"]](record)
            lines += [f"{what:<62} {measured:>10}   {wanted}" for what, measured, wanted in figures]
    return "\n".join(lines)


def inference_figures(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    wanted = {1: "≥ 1.3×", 8: "≥ 1.7×", 32: "≥ 1.7×"}
    return [
        (
            f"{record['model']}, {record['pruning']}, {row['way']}, {row['side']}, batch {row['batch_size']}",
            f"{row['speedup']:.2f}×",
            wanted[row["batch_size"]] if row["side"] == "routed" and row["way"] != "eager" else "",
        )
        for row in record["rows"]
        if "speedup" in row
    ]


def memory_figures(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    wanted = {"stream": "≤ 1.1", "gather": "≤ dense + projections"}
    return [
        (f"{record['model']}, {name}: peak memory over dense", f"{own['peak_over_dense']:.2f}", wanted.get(name, ""))
        for name, own in record["settings"].items()
        if "peak_over_dense" in own
    ]


def cost_figures(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Start schedules and offspring apart: they replay different shares of the calls, and a search has few starts."""
    figures = []
    for row in record["rows"]:
        name = f"{record['model']}, {row['allocation']}"
        for group, one in (("starts", "a start"), ("offspring", "an offspring")):
            if group in row:
                cost, calls = row[group]["cost"], row[group]["calls_run"]
                figures.append((f"{name}: {one} in dense rollouts", f"{cost:.3f}", ""))
                figures.append((f"{name}: denoiser calls run of {one}", f"{calls:.1%}", ""))
        if "offspring" in row:
            seconds = search_seconds(row)
            cost = seconds / CANDIDATES / row["dense_rollout_seconds"]
            extrapolated = f"{name}: {CANDIDATES:,} candidates, extrapolated"
            figures.append((f"{extrapolated}: dense rollouts each", f"{cost:.3f}", "≤ 0.45"))
            figures.append((f"{extrapolated}: GPU-hours", f"{seconds / 3600:.2f}", ""))
    return figures


def search_seconds(row: dict[str, Any]) -> float:
    """Seconds of a search of `CANDIDATES`: its starts, which come once, and offspring for the rest."""
    starts, offspring = row["starts"], row["offspring"]
    rest = CANDIDATES - starts["evaluated"]
    return float(starts["evaluated"] * starts["candidate_seconds"] + rest * offspring["candidate_seconds"])


def solver_figures(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        ("OBS, 1152 × 4608: seconds", f"{record['seconds']:.2f}", ""),
        ("OBS, 1152 × 4608: over the plain loop", f"{record['speedup_vs_plain']:.0f}×", ""),
    ]


FIGURES = {
    "inference": inference_figures,
    "memory": memory_figures,
    "candidate_cost": cost_figures,
    "obs_solver": solver_figures,
}

if __name__ == "__main__":
    main()
