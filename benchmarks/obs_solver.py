"""Time the OBS solver against the plain column-by-column loop; the last line printed is one JSON object.

Two plain loops are timed: `plain` is written as the formulas are (its temporaries are allocated at every removal, which
costs much or little depending on the allocator), `plain_in_place` updates without temporaries.

python benchmarks/obs_solver.py                                      # 256 x 1024, compared with the plain loop
python benchmarks/obs_solver.py --rows 1152 --columns 4608 --plain-removals 8   # DiT-XL's FFN, plain loop extrapolated
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from diff_es.pruning import ObsConfig
from diff_es.schedule import groups_removed
from results import ROOT, add_output_option, finish

sys.path.insert(0, str(ROOT / "tests" / "pruning"))
from one_linear import Solved, solve
from plain_obs import PlainObs, plain_obs

T = TypeVar("T")

#: Removals of the plain loop that come before those that are timed, and seconds that these take at least.
_UNTIMED, _LEAST_SECONDS = 2, 1.0


def correlated_layer(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random weight and the second moment of correlated inputs of unequal scale, float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    scales = torch.exp(0.5 * torch.randn(columns, generator=generator))
    inputs = (torch.randn(2 * columns, columns, generator=generator) @ mixing) * scales
    return weight, (inputs.T @ inputs).double() / len(inputs)


def timed(device: torch.device, function: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[float, T]:
    synchronize(device)
    start = time.perf_counter()
    result = function(*args, **kwargs)
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait for what runs on a GPU; a CPU is done when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(args: argparse.Namespace, weight: torch.Tensor, hessian: torch.Tensor) -> dict[str, Any]:
    """Alternate both solvers over the levels below the last (level 16 keeps nothing)."""
    counts = groups_removed(args.columns, args.levels)[:-1]
    config = ObsConfig(block_size=args.block_size)
    ours_seconds, plain_seconds, in_place_seconds = [], [], []
    for repeat in range(args.repeats):
        seconds, ours = timed(weight.device, solve, weight, hessian, group_size=1, removals=counts, config=config)
        ours_seconds.append(seconds)
        if repeat < args.plain_repeats:
            seconds, plain = timed(weight.device, plain_obs, weight, hessian, counts, config.damping)
            plain_seconds.append(seconds)
            seconds, _ = timed(weight.device, plain_obs, weight, hessian, counts, config.damping, in_place=True)
            in_place_seconds.append(seconds)
    ours_median, plain_median = statistics.median(ours_seconds), statistics.median(plain_seconds)
    in_place_median = statistics.median(in_place_seconds)
    return {
        "speedup_vs_plain": round(plain_median / ours_median, 1),
        "speedup_vs_plain_in_place": round(in_place_median / ours_median, 1),
        **agreement(ours, plain, weight),
        "seconds": round(ours_median, 4),
        "seconds_plain": round(plain_median, 4),
        "seconds_plain_in_place": round(in_place_median, 4),
        "seconds_all": [round(value, 4) for value in ours_seconds],
        "seconds_plain_all": [round(value, 4) for value in plain_seconds],
        "plain": "measured in full",
    }


def agreement(
    ours: Solved, plain: tuple[list[int], list[torch.Tensor], list[torch.Tensor]], weight: torch.Tensor
) -> dict[str, Any]:
    """Kept sets and weights of both solvers, level by level."""
    _, plain_kept, plain_weights = plain
    equal = [torch.equal(level.kept, kept) for level, kept in zip(ours.levels, plain_kept, strict=True)]
    errors = [
        float((level.weight - plain_weight[:, level.kept.to(weight.device)]).abs().max())
        for level, plain_weight in zip(ours.levels, plain_weights, strict=True)
    ]
    return {
        "kept_sets_equal": all(equal),
        "levels_compared": len(equal),
        "max_weight_error": max(errors) / float(weight.abs().max()),
    }


def extrapolate(args: argparse.Namespace, weight: torch.Tensor, hessian: torch.Tensor) -> dict[str, Any]:
    """Full run of our solver; of the plain loop the start and some removals, whose cost never changes."""
    counts = groups_removed(args.columns, args.levels)[:-1]
    few = (0, args.plain_removals)
    config = ObsConfig(block_size=args.block_size)
    run: dict[str, Any] = {"group_size": 1, "config": config}
    # Both solvers run once, untimed: the first use of a library is none of their time.
    same = agreement(
        solve(weight, hessian, removals=few, **run), plain_obs(weight, hessian, few, config.damping), weight
    )
    ours_seconds = [
        timed(weight.device, solve, weight, hessian, removals=counts, **run)[0] for _ in range(args.repeats)
    ]
    ours = statistics.median(ours_seconds)
    plain, in_place = (
        plain_parts(weight, hessian, config.damping, args.plain_removals, in_place=way) for way in (False, True)
    )
    start = statistics.median([plain[0], in_place[0]])
    removal, removal_in_place = statistics.median(plain[1]), statistics.median(in_place[1])
    plain_seconds, in_place_seconds = (start + own * counts[-1] for own in (removal, removal_in_place))
    return {
        "speedup_vs_plain": round(plain_seconds / ours, 1),
        "speedup_vs_plain_in_place": round(in_place_seconds / ours, 1),
        **same,
        "seconds": round(ours, 4),
        "seconds_plain": round(plain_seconds, 1),
        "seconds_plain_in_place": round(in_place_seconds, 1),
        "seconds_all": [round(value, 4) for value in ours_seconds],
        "seconds_of_a_plain_removal": removal,
        "seconds_of_a_plain_removal_in_place": removal_in_place,
        "plain": f"extrapolated from {len(plain[1])} removals",
    }


def plain_parts(
    weight: torch.Tensor, hessian: torch.Tensor, damping: float, least: int, *, in_place: bool
) -> tuple[float, list[float]]:
    """Seconds of the plain loop's start, and of each of its removals, timed alone, after two that are not timed.

    At least so many removals, and so many that they take a second.
    """
    start, loop = timed(weight.device, PlainObs, weight, hessian, damping)
    times: list[float] = []
    for number in range(weight.shape[1]):
        seconds, _ = timed(weight.device, loop.remove, in_place=in_place)
        if number >= _UNTIMED:
            times.append(seconds)
        if len(times) >= least and sum(times) >= _LEAST_SECONDS:
            break
    return start, times


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--levels", type=int, default=16, help="the last level, which keeps nothing, is left out")
    parser.add_argument("--repeats", type=int, default=5, help="runs of our solver; the median counts")
    parser.add_argument("--plain-repeats", type=int, default=2, help="runs of the plain loop, alternating with ours")
    parser.add_argument(
        "--plain-removals", type=int, default=0, help="above 0: extrapolate the plain loop from so many, or more"
    )
    parser.add_argument("--block-size", type=int, default=ObsConfig.block_size)
    parser.add_argument("--threads", type=int, default=0, help="above 0: threads of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …: of both solvers")
    add_output_option(parser)
    args = parser.parse_args()
    if args.plain_removals > args.columns - _UNTIMED:
        parser.error(f"--plain-removals {args.plain_removals}: only {args.columns - _UNTIMED} can be timed.")
    return args


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    weight, hessian = (tensor.to(args.device) for tensor in correlated_layer(args.rows, args.columns, args.seed))
    result = extrapolate(args, weight, hessian) if args.plain_removals else compare(args, weight, hessian)
    for key, value in result.items():
        print(f"{key:>25}: {value}")
    names = ("rows", "columns", "levels", "block_size", "seed", "device")
    finish(
        {"benchmark": "obs_solver", **result, **{name: vars(args)[name] for name in names}, "dtype": "float64"},
        args.json,
        args.device,
    )


if __name__ == "__main__":
    main()
