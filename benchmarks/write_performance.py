"""Write docs/results/performance.md from the JSON files, so that no number is typed by hand."""

from __future__ import annotations

from typing import Any

from gpu import CANDIDATES, search_seconds
from pages import FOLDER, has, origin, read, table

INTRODUCTION = """# Performance

Time and memory: of the routed model, of the search, of calibration and banks. Every number comes from a JSON file in
this folder or in `performance/`, which also holds the command, the commit, the date, the library versions and the
machine; `python benchmarks/write_performance.py` writes the page from the files. The line under each table says on
which device it was measured: unless that is a GPU, it was not measured on one. `make bench-gpu` measures in eight
minutes what is worth measuring on a GPU.

Dense and routed models alternate within one run, and are run in the same way. Random weights stand in where only sizes
matter.
"""


def main() -> None:
    sections = [
        INTRODUCTION,
        "\n## Inference\n",
        inference(),
        *sizes(),
        gpu_first_look(),
        *memory(),
        "\n## Search\n",
        *candidate_costs(),
        search_scaling(),
        replay(),
        replay_policy(),
        racing(),
        "\n## Calibration and banks\n",
        calibrate(),
        full_size(),
        obs_solver(),
    ]
    (FOLDER / "performance.md").write_text("\n".join(filter(None, sections)), encoding="utf-8")


#: Results of benchmarks/inference.py on published sizes.
SIZES = (
    "inference_dit-s",
    "inference_dit-s_batches",
    "inference_dit-s_compiled",
    "inference_dit-xl",
    "inference_dit-xl_gpu",
    "inference_dit-xl_gpu_compiled",
    "inference_dit-xl_gpu_eager",
    "inference_dit-xl_blocks_gpu",
)
WAYS = {
    "eager": "plain PyTorch",
    "compiled": "compiled",
    "compiled-blocks": "blocks compiled",
    "graphs": "CUDA graphs",
    "compiled-graphs": "compiled, CUDA graphs",
    "compiled-blocks-graphs": "blocks compiled, CUDA graphs",
}


def sizes() -> list[str]:
    """Denoiser calls of published sizes."""
    return [_size_section(read(f"performance/{name}")) for name in SIZES if has(f"performance/{name}")]


def _size_section(record: dict[str, Any]) -> str:
    dense = {(r["way"], r["batch_size"]): r["median_ms"] for r in record["rows"] if r["side"] == "dense"}
    rows = [
        _size_row(row, dense.get((row["way"], row["batch_size"]))) for row in record["rows"] if row["side"] != "dense"
    ]
    what = "whole blocks removed" if record.get("pruning") == "blocks" else "heads and channels removed"
    step = next(row["median_ms"] for row in record["rows"] if row["side"] == "routed")
    return (
        f"\n### {record['model']}, {what}\n\n"
        f"Random weights, {record['dtype']}, guided (two rows an image), stage levels {record['levels']} of "
        f"{record['num_levels']}. MACs left: {record['macs_ratio']:.1%}, so that "
        f"{1 / record['macs_ratio']:.2f}× is the most that removing them can give. A stage switch takes "
        f"{record['stage_switch_ms']:.3f} ms on the host, {record['stage_switch_ms'] / step:.3%} of a step of the "
        "routed model at the smallest batch. *Gathered* cuts rows and columns out of the dense weights at every call, "
        "*stitched* holds one model per stage.\n\n"
        + table(["run as", "batch", "dense, a call", "model", "a call", "over dense", "of what MACs promise"], rows)
        + origin(record)
    )


def _size_row(row: dict[str, Any], dense: float | None) -> list[str]:
    share = f"{row['share_of_macs_ratio']:.0%}" if "share_of_macs_ratio" in row else "-"
    return [
        WAYS[row["way"]],
        str(row["batch_size"]),
        "-" if dense is None else f"{dense:.2f} ms",
        row["side"].replace("gather-in-forward", "gathered"),
        f"{row['median_ms']:.2f} ms",
        f"{row['speedup']:.2f}×",
        share,
    ]


def gpu_first_look() -> str:
    """What two runs printed that were ended before they were through."""
    name = "performance/inference_dit-xl_gpu_first"
    if not has(name):
        return ""
    record = read(name)
    dense = {(r["way"], r["batch_size"]): r["median_ms"] for r in record["rows"] if r["side"] == "dense"}
    rows = [_size_row(row, dense[row["way"], row["batch_size"]]) for row in record["rows"] if row["side"] != "dense"]
    headings = ["run as", "batch", "dense, a call", "model", "a call", "over dense", "of what MACs promise"]
    record = {**record, "command": "; ".join(record["commands"])}
    profile = record["profile"]
    kernels, untouched = profile["dense_kernels_ms_batch_8"], profile["of_them_not_pruned_ms"]
    bound = kernels / (untouched + (kernels - untouched) / 2)
    return (
        "\n### DiT-XL/2 on a GPU, a first look\n\n"
        f"Random weights, {record['dtype']}, half of all levels removed. {record['note']} The targets (1.3× at batch "
        "1, 1.7× at batch 8 and 32) are not reached. In plain PyTorch the host cannot launch kernels fast enough, so "
        f"that pruning gains nothing. At batch 8, {profile['of_them_not_pruned_ms']:.1f} of the "
        f"{profile['dense_kernels_ms_batch_8']:.1f} ms of the dense model's kernels are not pruned at all (norms, "
        f"modulations, the 28 embedders of timestep and class), which bounds the gain at {bound:.1f}×; the rest "
        "is lost where narrow projections leave a part of the GPU idle. At batch 1 the matrix products are too small "
        "to fill it, and halving them saves little. *Gathered* is too slow here by a fault of the benchmark, mended "
        "since: it cut three times in two calls.\n\n" + table(headings, rows) + origin(record)
    )


#: Results of benchmarks/memory.py → the schedule, in words, and what there is to say.
MEMORY = {
    "memory_dit-xl_gpu": ("levels from 4 to 12 of 16", ""),
    "memory_dit-xl_gpu_ramp": (
        "levels from 4 to 12 of 16",
        " Measured before *stream* was held to a tenth beyond the dense weights: see the prediction below.",
    ),
    "memory_dit-s": ("levels from 2 to 5 of 6", ""),
}
#: Predictions of benchmarks/memory.py → the schedule, in words.
MEMORY_PREDICTED = {
    "memory_dit-xl_predicted_ramp": "levels from 4 to 12 of 16",
    "memory_dit-xl_predicted": "the same level in every stage",
}


def memory() -> list[str]:
    """Memory of the memory modes: peaks measured, and weights computed from their shapes."""
    return [
        *(_memory_section(read(f"performance/{n}"), *text) for n, text in MEMORY.items() if has(f"performance/{n}")),
        _memory_predicted(),
    ]


def _memory_section(record: dict[str, Any], schedule: str, remark: str) -> str:
    rows = [
        [
            name,
            size(own["loading_peak_bytes"]) if "loading_peak_bytes" in own else "-",
            size(own["loaded_bytes"]),
            size(own["peak_bytes"]),
            f"{own['peak_over_dense']:.2f}",
            size(own["predicted_weight_bytes"]) if own["predicted_weight_bytes"] else "-",
        ]
        for name, own in record["settings"].items()
    ]
    headings = [
        "model",
        "peak while it is loaded",
        "loaded",
        "peak of two denoising runs",
        "peak over dense",
        "weights while it runs, predicted",
    ]
    return (
        f"\n### Memory of {record['model']}\n\n"
        f"Random weights, {record['dtype']}, {record['batch_size']} images at once, half of all levels removed: "
        f"{schedule}.{remark}\n\n" + table(headings, rows) + origin(record)
    )


def _memory_predicted() -> str:
    names = [name for name in MEMORY_PREDICTED if has(f"performance/{name}")]
    if not names:
        return ""
    records = [read(f"performance/{name}") for name in names]
    columns = [record["weight_bytes"] for record in records]
    rows = [
        [mode, *(f"{size(own[mode])} ({own[mode] / own['dense']:.2f})" for own in columns)]
        for mode in columns[0]
        if mode != "dense"
    ]
    return (
        f"\n### Weights of {records[0]['model']} on the device, computed\n\n"
        f"From their shapes, {records[0]['dtype']}, half of all levels removed; beside it, over the "
        f"{size(columns[0]['dense'])} of the dense weights. Activations come on top, as for the dense model.\n\n"
        + table(["mode", *(MEMORY_PREDICTED[name] for name in names)], rows)
        + "".join(origin(record) for record in records)
    )


def search_scaling() -> str:
    if not has("performance/search_scaling"):
        return ""
    record = read("performance/search_scaling")
    rows = [
        [
            str(count),
            ", ".join(f"{one['seconds']:.1f} s" for one in own),
            f"{record['times_faster'][count]:.2f}×",
            f"{own[0]['busy_share']:.0%}",
            str(own[0]["denoiser_calls"]),
            ", ".join(f"{one['start_seconds']:.0f} s" for one in own),
        ]
        for count in record["times_faster"]
        for own in [[one for one in record["searches"] if str(one["workers"]) == count]]
    ]
    headings = ["workers", "search", "times as fast", "busy", "denoiser calls", "start of the workers, beside it"]
    same = "equal" if record["same_journal"] else "NOT equal"
    return (
        "\n### One search on several workers\n\n"
        f"A search of {record['generations']} generations on {record['model'].removeprefix('zoo:')} "
        f"({record['searches'][0]['candidates']} schedules, {record['probes']} probes) by Ray workers of "
        f"{record['threads_per_worker']} thread each, on {record['processors']} processors. Journals: {same}. More "
        "workers make more denoiser calls, as each replays only what it has computed itself.\n\n"
        + table(headings, rows)
        + origin(record)
    )


def inference() -> str:
    record = read("inference")
    names = list(record["macs_ratio"])
    headings = ["batch", "dense, median (p10–p90)", *(f"{name}" for name in names), *(f"{n} speed-up" for n in names)]
    rows = [
        [str(row["batch_size"]), _span(row["dense"]), *(_span(row[n]) for n in names)]
        + [_speedup(row[f"{n}_speedup"], row[f"{n}_in_words"]) for n in names]
        for row in record["rows"]
    ]
    ratios = ", ".join(f"{name} {ratio:.1%}" for name, ratio in record["macs_ratio"].items())
    return (
        "\n### Latency of the routed model\n\n"
        f"Whole pipeline calls, dense and routed alternating. MACs left: {ratios}. A stage switch takes "
        f"{record['stage_switch_ms']:.2f} ms.\n\n" + table(headings, rows) + origin(record)
    )


def _speedup(value: float, words: str) -> str:
    """A figure where it is a gain, words where it is not."""
    return f"{value:.2f}×" if value > 1 else words


def _span(row: dict[str, float]) -> str:
    return f"{row['median_ms']:.0f} ms ({row['p10_ms']:.0f}–{row['p90_ms']:.0f})"


def replay() -> str:
    record = read("replay")
    return (
        "\n### Replay\n\n"
        f"Fitness with and without replay differed for {record['different_fitness']} of {record['candidates']} random "
        f"schedules (compared bitwise). Over a search of {record['generations']} generations "
        f"({record['evaluated']} schedules) replay saved {record['share_saved']:.1%} of the denoiser calls: "
        f"{record['denoiser_calls_replayed']} replayed, {record['denoiser_calls_run']} run.\n" + origin(record)
    )


def replay_policy() -> str:
    record = read("replay_policy")
    rows = [
        [
            "all" if row["room_for_schedules"] is None else str(row["room_for_schedules"]),
            f"{row['least_recently_used']:.1%}",
            f"{row['fittest_favoured']:.1%}",
        ]
        for row in record["rows"]
    ]
    headings = ["room for the outputs of … schedules", "least recently used go first", "and the fittest's stay"]
    return (
        "\n### Replay when memory is short\n\n"
        f"Share of the denoiser calls that replay saves in searches of {record['generations']} generations on toy "
        f"landscapes of {record['stages']} stages (mean of {record['seeds']} seeds), by what is kept. The right column "
        "is what Diff-ES does.\n\n" + table(headings, rows) + origin(record)
    )


def racing() -> str:
    if not has("racing"):
        return ""
    record = read("racing")
    rows = [
        [
            f"{row['margin']:g}",
            f"{row['dropped']:.1%}",
            f"{row['calls_ratio']:.1%}",
            f"{row['same_schedule']} of {row['seeds']}",
            f"{row['fitness_difference']:+.5f}",
            f"{row['worst_fitness_difference']:+.5f}",
        ]
        for row in record["summary"]
    ]
    headings = ["margin", "dropped", "denoiser calls left", "same schedule found", "fitness, mean", "fitness, worst"]
    return (
        "\n### Racing\n\n"
        f"Searches on fashion-dit ({record['allocation']} allocation, {record['generations']} generations, "
        f"{record['probes']} probes in batches of {record['batch_size']}) with and without racing, from the same seeds "
        f"({', '.join(str(seed) for seed in sorted({row['seed'] for row in record['rows']}))}). Calls and fitness are "
        "against the search without.\n\n" + table(headings, rows) + origin(record)
    )


#: Results of benchmarks/candidate_cost.py.
CANDIDATE_COST = ("candidate_cost", "performance/candidate_cost_dit-xl_gpu")


def candidate_costs() -> list[str]:
    """What a candidate of the search costs, on each device where that has been measured."""
    return [_candidate_cost(read(name)) for name in CANDIDATE_COST if has(name)]


def _candidate_cost(record: dict[str, Any]) -> str:
    rows = [
        [
            row["allocation"],
            f"{row['cost']:.3f}",
            *(f"{row['cost_by_part'][part]:.3f}" for part in ("denoiser", "decoding", "scoring", "rest")),
            f"{row['calls_run']:.1%}",
            f"{row['cost_in_wall_time']:.3f}",
        ]
        for row in record["rows"]
    ]
    headings = ["allocation", "a candidate", "denoiser", "decoding", "scoring", "the rest", "calls run", "in wall time"]
    on_gpu = record.get("device", "cpu") != "cpu"
    what = f"{record['model'].removeprefix('zoo:')}{' on a GPU' if on_gpu else ''}"
    how = (
        "The whole is wall time, its parts those of the GPU."
        if on_gpu
        else "On a CPU the ratio is one of processor time; that of wall time, beside it, takes in whatever else the "
        "machine did meanwhile."
    )
    return (
        f"\n### What a candidate costs{f': {what}' if on_gpu else ''}\n\n"
        f"In dense rollouts of the same {record['probes']} probes, sampled between the candidates: the mean over a "
        f"search of {record['generations']} generations on {what} at "
        f"{record['sparsity']:.0%} ({record['stages']} stages, {record['steps']} steps, {record['metric'].upper()}). "
        f"{how}\n\n" + table(headings, rows) + _starts_and_offspring(record) + origin(record)
    )


def _starts_and_offspring(record: dict[str, Any]) -> str:
    """The two kinds of candidates apart, where that has been measured."""
    rows = [
        [
            row["allocation"],
            name,
            str(row[group]["evaluated"]),
            f"{row[group]['cost']:.3f}",
            f"{row[group]['calls_run']:.1%}",
            f"{row[group]['candidate_seconds']:.2f} s",
        ]
        for row in record["rows"]
        for group, name in (("starts", "start schedules"), ("offspring", "their offspring"))
        if group in row
    ]
    if not rows:
        return ""
    hours = "".join(
        f" {row['allocation'].capitalize()}: {search_seconds(row) / 3600:.2f} hours, "
        f"{search_seconds(row) / CANDIDATES / row['dense_rollout_seconds']:.3f} dense rollouts a candidate."
        for row in record["rows"]
        if "offspring" in row
    )
    extrapolated = f" A search of {CANDIDATES:,} candidates, extrapolated from both.{hours}" if hours else ""
    headings = ["allocation", "of them", "candidates", "a candidate", "calls run", "time of each"]
    return f"\nStart schedules have less in common than their offspring.{extrapolated}\n\n" + table(headings, rows)


def calibrate() -> str:
    """Time and memory of calibration, where that has been measured."""
    if not has("calibrate"):
        return ""
    record = read("calibrate")
    rows = [
        [
            row["model"],
            row["method"],
            row["source"],
            _ways(row["predicted"]),
            str(row["denoiser_calls"]),
            f"{row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s)",
            f"{size(row['predicted']['bytes_at_once'])} / {size(row['memory_grown_bytes'])}",
            f"{size(row['predicted']['disk_bytes'])} / {size(row['stored_bytes'])}",
        ]
        for row in record["rows"]
    ]
    headings = [
        "model",
        "statistics for",
        "inputs",
        "sets",
        "denoiser calls",
        "time (of processors)",
        "sums at once, predicted / memory grown",
        "stored, predicted / real",
    ]
    return (
        "\n### Calibration\n\n"
        f"{record['images']} images of fashion-dit in batches of {record['batch_size']}, {record['steps']} steps, "
        f"{record['stages']} stages; one stage of a denoiser of DiT-XL/2's size with random weights. *Recorded* keeps "
        "every call of a sampling run and runs it again; *live* fills the same sums while it samples, to the same bits."
        " The memory that a process grows by also holds activations, and pages that it keeps for later.\n\n"
        + table(headings, rows)
        + origin(record)
    )


def _ways(predicted: dict[str, int]) -> str:
    left = predicted["sets"] - predicted["live"]
    ways = [f"{predicted['live']} live"] * bool(predicted["live"])
    passes = "1 pass" if predicted["passes"] == 1 else f"{predicted['passes']} passes"
    return ", ".join([*ways, *[f"{left}, {passes} each"] * bool(left)])


def full_size() -> str:
    """Predicted against real, one line per run that has been made."""
    rows, origins = [], []
    for path in sorted(FOLDER.glob("full_size_*.json")):
        record = read(path.stem)
        shared = ", calibrated once" if record["shared"] else ""
        sizes = [
            f"{size(record['predicted'][key])} / {size(record['real'][key])}"
            for key in ("calibration_bytes", "bank_bytes")
        ]
        steps = [
            f"{record[step]['seconds']:.0f} s, {size(record[step]['peak_resident_bytes'])}"
            for step in ("calibration", "bank")
        ]
        settings = f"{record['method']}, {record['stages']} stages{shared}, H = {record['levels']}, {record['dtype']}"
        within = f"{record['model_resident_bytes'] / 2**30:.1f} + {record['memory_limit_gib']:.1f} GiB"
        rows.append([record["model"], settings, *sizes, within, _of_limit(record), *steps])
        origins.append(origin(record))
    if not rows:
        return ""
    return (
        "\n### Real sizes, with random weights\n\n"
        "The same predictions beside what was really written, byte for byte of the files. Memory is the process's: the "
        "model and everything else, within the limit for Hessians that is given beside the model's own.\n\n"
        + table(
            [
                "model",
                "settings",
                "calibration, predicted / real",
                "bank, predicted / real",
                "model + Hessians",
                "most used, of a limit for all",
                "calibration: time, peak memory",
                "bank: time, peak memory",
            ],
            rows,
        )
        + "".join(origins)
    )


def _of_limit(record: dict[str, Any]) -> str:
    """Only runs with a limit for the whole process have one."""
    return f"{record['peak_gb']:.2f} of {record['limit_gb']:g} GB" if record.get("limit_gb") else "-"


def size(count: int) -> str:
    return f"{count / 2**30:.3f} GiB" if count >= 2**30 else f"{count / 2**20:.3f} MiB"


#: Results of benchmarks/obs_solver.py: those that are always there, and one of a GPU.
OBS_SOLVER, OBS_SOLVER_GPU = ("obs_solver", "obs_solver_dit_xl"), "performance/obs_solver_dit-xl_gpu"


def obs_solver() -> str:
    names = [*OBS_SOLVER, *([OBS_SOLVER_GPU] if has(OBS_SOLVER_GPU) else [])]
    rows = [
        [
            f"{record['rows']} × {record['columns']}{', on a GPU' if record.get('device', 'cpu') != 'cpu' else ''}",
            f"{record['seconds']:.2f} s",
            f"{record['seconds_plain']:.1f} s",
            f"{record['speedup_vs_plain']:.0f}×",
            f"{record['speedup_vs_plain_in_place']:.1f}×",
            f"{record['kept_sets_equal']} ({record['levels_compared']} levels)",
            f"{record['max_weight_error']:.1e}",
            record["plain"],
        ]
        for record in map(read, names)
    ]
    headings = ["rows × columns", "blocked", "plain loop", "speed-up", "speed-up over the loop in place"]
    return (
        "\n### The OBS solver against the plain loop\n\n"
        "The plain loop removes column by column and updates everything at each removal. Much of its time goes into "
        "allocating temporaries, so the same loop without them is timed too.\n\n"
        + table([*headings, "kept sets equal", "largest weight error", "plain loop"], rows)
        + "".join(origin(read(name)) for name in names if name != "obs_solver_dit_xl")
    )


if __name__ == "__main__":
    main()
