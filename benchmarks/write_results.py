"""Write docs/results/README.md from the JSON files beside it, so that no number is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results import ROOT

FOLDER = ROOT / "docs" / "results"

INTRODUCTION = """# Results

Every number on this page comes from a JSON file in this folder, which also holds the command, the commit, the date,
the library versions and the machine. `python benchmarks/write_results.py` writes the page from the files. The models
are the small ones that ship with Diff-ES, unless a section says otherwise; nothing on this page was measured on a GPU.
"""


def main() -> None:
    sections = [
        INTRODUCTION,
        paper_tables(),
        zoo_quality(),
        inference(),
        dit_xl_macs(),
        real_sizes(),
        full_size(),
        calibrate(),
        toy_landscapes(),
        obs_solver(),
        closed_form(),
        replay(),
        replay_policy(),
        racing(),
        candidate_cost(),
    ]
    (FOLDER / "README.md").write_text("\n".join(filter(None, sections)), encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def origin(record: dict[str, Any]) -> str:
    environment = record["environment"]
    where = f"{environment['device']}, {environment['threads']} threads, torch {environment['packages']['torch']}"
    return f"\n`{record['command']}` · commit {record['commit'][:10]} · {record['date'][:10]} · {where}\n"


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


#: Result of benchmarks/zoo_quality.py → the model's name, and what its sampler is called.
ZOO_QUALITY = {
    "zoo_quality": ("fashion-dit", "DDIM steps"),
    "zoo_quality_fashion-sdxl": ("fashion-sdxl", "Euler steps, one default caption per class"),
    "zoo_quality_fashion-flux": ("fashion-flux", "Euler steps, one default caption per class, no guidance"),
}


def zoo_quality() -> str:
    return "\n".join(_zoo_quality(*entry) for entry in ZOO_QUALITY.items())


def _zoo_quality(file: str, described: tuple[str, str]) -> str:
    record = read(file)
    model, sampler = described
    rows = [
        [_guidance(row["guidance_scale"]), f"{row['label_agreement']:.1%}", f"{row['classifier_frechet']:.2f}"]
        for row in record["rows"]
    ]
    return (
        f"\n## Is {model} a real generator?\n\n"
        f"{record['samples']} samples, {record['steps']} {sampler}. The Fréchet distance is taken on the features of "
        f"the shipped classifier (no FID), to the 2,000 shipped test images. {record['training_images']} real training "
        f"images have a distance of {record['training_to_test_frechet']:.2f} to them, and the classifier agrees with "
        f"{record['training_label_agreement']:.1%} of their labels.\n\n"
        + table(["guidance scale", "label agreement", "Fréchet distance on classifier features"], rows)
        + origin(record)
    )


def _guidance(scale: float) -> str:
    return f"{scale:g}" if scale > 1 else "none"


def paper_tables() -> str:
    """Links to the tables that `diff-es reproduce` made and `keep_tables.py` kept; empty before that."""
    pages = sorted((FOLDER / "tables").glob("*/table.md"))
    if not pages:
        return ""
    links = [f"- [{_title(page)}](tables/{page.parent.name}/table.md)\n" for page in pages]
    return "\n## The paper's tables, made again\n\nBy `diff-es reproduce`, on the shipped model.\n\n" + "".join(links)


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def dit_xl_macs() -> str:
    record = read("dit_xl_macs")
    rows = [
        [
            row["method"],
            f"{row['sparsity_percent']:g} %",
            f"{row['paper_macs'] / 1e12:.2f} T",
            f"{row['paper_share_of_its_dense']:.1%}",
            f"{row['macs_left_by_that_sparsity'] / 1e12:.2f} T",
            f"{row['share_left_by_that_sparsity']:.1%}",
        ]
        for row in record["rows"]
    ]
    headings = ["method", "sparsity", "paper's MACs", "of its dense", "MACs left by that sparsity", "of dense"]
    return (
        "\n## The MACs of DiT-XL/2\n\n"
        f"Of an image of 256 × 256 in {record['steps']} steps, counted on a model of that size with random weights, "
        f"one multiplication and addition each: {record['macs_without_guidance'] / 1e12:.3f} T without guidance (the "
        f"paper: {record['paper_macs'] / 1e12:.2f} T) and {record['macs_with_guidance'] / 1e12:.3f} T with the two "
        "passes a step that guidance takes. The last two columns are what remains when exactly that share of the "
        "prunable MACs is removed.\n\n" + table(headings, rows) + origin(record)
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
        "\n## Latency of the routed model\n\n"
        f"Whole pipeline calls, dense and routed alternating. MACs left: {ratios}. A stage switch takes "
        f"{record['stage_switch_ms']:.2f} ms.\n\n" + table(headings, rows) + origin(record)
    )


def _speedup(value: float, words: str) -> str:
    """A figure where it is a gain, words where it is not."""
    return f"{value:.2f}×" if value > 1 else words


def _span(row: dict[str, float]) -> str:
    return f"{row['median_ms']:.0f} ms ({row['p10_ms']:.0f}–{row['p90_ms']:.0f})"


def real_sizes() -> str:
    record = read("real_sizes")
    shares = [
        [
            model["name"],
            f"{model['parameters'] / 1e9:.2f} G",
            f"{model['macs'] / 1e12:.2f} T",
            f"{model['prunable_share_of_macs']:.1%}",
            f"{model['macs_left_by_level'][str(model['levels'] // 2)]:.1%}",
        ]
        for model in record["models"]
    ]
    sizes = []
    for model in record["models"]:
        kept = model["footprint"]
        shared = ", calibrated once" if model["shared_calibration"] else ""
        sizes.append(
            [
                model["name"],
                f"{model['stages']} stages{shared}, H = {model['levels']}, {model['dtype']}",
                f"{model['schedules_at_half']:.2g}",
                *(f"{kept[key] / 2**30:.1f} GiB" for key in ("calibration_bytes", "bank_bytes")),
                f"{kept['largest_hessian_bytes'] / 2**30:.2f} to {kept['hessian_bytes'] / 2**30:.1f} GiB",
            ]
        )
    sdxl = next(model for model in record["models"] if model["name"].startswith("SDXL"))
    dense = 20 * sdxl["macs"] / 1e12
    left = dense * sdxl["macs_left_by_level"][str(round(0.3 * sdxl["levels"]))]
    return (
        "\n## Real sizes, without weights\n\n"
        "The paper's models from their published shapes alone, on the meta device: one call on one image, and what OBS "
        "with the paper's settings takes on disk and in memory. A bank holds every level; the artefact of one schedule "
        f"is a small part of it. Twenty calls of SDXL without guidance are {dense:.2f} T MACs, and {left:.2f} T with "
        "30 % of every layer's heads and channels removed; the paper's table 7 has 67.64 T and 52.45 T. "
        + _with_deep_cache(record["sdxl_with_deep_cache"])
        + table(["model", "parameters", "MACs of a call", "prunable share", "left at half of the levels"], shares)
        + "\n"
        + table(
            ["model", "settings", "schedules at 50 %", "calibration", "bank", "Hessians: least to all at once"], sizes
        )
        + origin(record)
    )


def _with_deep_cache(branches: list[dict[str, int]]) -> str:
    """SDXL in twenty steps, every second one from the cache, beside the paper's table 7."""
    paper = 36.05
    dense, pruned = (
        {row["branch"]: 10 * (row[f"{name}_full"] + row[f"{name}_cached"]) / 1e12 for row in branches}
        for name in ("dense", "pruned")
    )
    below, above = (
        max(own for own in pruned.values() if own < paper),
        min(own for own in pruned.values() if own > paper),
    )
    nearest = min(dense, key=lambda branch: abs(dense[branch] - paper))
    return (
        f"With DeepCache at an interval of two, the pruned model takes {pruned[0]:.2f} T at the outermost branch. The "
        f"paper has {paper} T and does not name its branch; the pruned model's nearest are {below:.2f} T and "
        f"{above:.2f} T, and the *unpruned* one takes {dense[nearest]:.2f} T at branch {nearest}.\n\n"
    )


def full_size() -> str:
    """Predicted against real, one line per run that has been made."""
    rows, origins = [], []
    for path in sorted(FOLDER.glob("full_size_*.json")):
        record = read(path.stem)
        shared = ", calibrated once" if record["shared"] else ""
        sizes = [
            f"{_size(record['predicted'][key])} / {_size(record['real'][key])}"
            for key in ("calibration_bytes", "bank_bytes")
        ]
        steps = [
            f"{record[step]['seconds']:.0f} s, {_size(record[step]['peak_resident_bytes'])}"
            for step in ("calibration", "bank")
        ]
        settings = f"{record['method']}, {record['stages']} stages{shared}, H = {record['levels']}, {record['dtype']}"
        within = f"{record['model_resident_bytes'] / 2**30:.1f} + {record['memory_limit_gib']:.1f} GiB"
        rows.append([record["model"], settings, *sizes, within, _of_limit(record), *steps])
        origins.append(origin(record))
    if not rows:
        return ""
    return (
        "\n## Real sizes, with random weights\n\n"
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


def calibrate() -> str:
    """Time and memory of calibration, where that has been measured."""
    if not (FOLDER / "calibrate.json").exists():
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
            f"{_size(row['predicted']['bytes_at_once'])} / {_size(row['memory_grown_bytes'])}",
            f"{_size(row['predicted']['disk_bytes'])} / {_size(row['stored_bytes'])}",
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
        "\n## Calibration\n\n"
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


def _size(count: int) -> str:
    return f"{count / 2**30:.3f} GiB" if count >= 2**30 else f"{count / 2**20:.3f} MiB"


def toy_landscapes() -> str:
    record = read("toy_landscapes")
    rows = [[name, ", ".join(f"{hits}/{record['seeds']}" for hits in found)] for name, found in record["found"].items()]
    return (
        "\n## Does the search find known optima?\n\n"
        f"Landscapes over {record['schedules']} schedules (6 stages, H = 8) whose optimum brute force knows; seeds of "
        f"the search that ended there after {record['generations']} generations (at most 1,620 schedules), one figure "
        "per landscape. *Separable* to *deceptive* are what we expect of denoising; *quadratic* and *noise* are made "
        "to be hard.\n\n" + table(["family", "found"], rows) + origin(record)
    )


def obs_solver() -> str:
    rows = [
        [
            f"{record['rows']} × {record['columns']}",
            f"{record['seconds']:.2f} s",
            f"{record['seconds_plain']:.1f} s",
            f"{record['speedup_vs_plain']:.0f}×",
            f"{record['speedup_vs_plain_in_place']:.1f}×",
            f"{record['kept_sets_equal']} ({record['levels_compared']} levels)",
            f"{record['max_weight_error']:.1e}",
            record["plain"],
        ]
        for record in map(read, ("obs_solver", "obs_solver_dit_xl"))
    ]
    headings = ["rows × columns", "blocked", "plain loop", "speed-up", "speed-up over the loop in place"]
    return (
        "\n## The OBS solver against the plain loop\n\n"
        "The plain loop removes column by column and updates everything at each removal. Much of its time goes into "
        "allocating temporaries, so the same loop without them is timed too.\n\n"
        + table([*headings, "kept sets equal", "largest weight error", "plain loop"], rows)
        + origin(read("obs_solver"))
    )


def closed_form() -> str:
    record = read("closed_form")
    return (
        "\n## OBS against the closed form\n\n"
        f"All {record['levels_checked']} levels (every stage, layer and level that keeps something) of fashion-dit: "
        f"largest relative error {record['max_relative_error']:.1e} in float64, "
        f"{record['max_relative_error_as_stored']:.1e} as stored in float32.\n" + origin(record)
    )


def replay() -> str:
    record = read("replay")
    return (
        "\n## Replay\n\n"
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
        "\n## Replay when memory is short\n\n"
        f"Share of the denoiser calls that replay saves in searches of {record['generations']} generations on toy "
        f"landscapes of {record['stages']} stages (mean of {record['seeds']} seeds), by what is kept. The right column "
        "is what Diff-ES does.\n\n" + table(headings, rows) + origin(record)
    )


def racing() -> str:
    if not (FOLDER / "racing.json").exists():
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
        "\n## Racing\n\n"
        f"Searches on fashion-dit ({record['allocation']} allocation, {record['generations']} generations, "
        f"{record['probes']} probes in batches of {record['batch_size']}) with and without racing, from the same seeds "
        f"({', '.join(str(seed) for seed in sorted({row['seed'] for row in record['rows']}))}). Calls and fitness are "
        "against the search without.\n\n" + table(headings, rows) + origin(record)
    )


def candidate_cost() -> str:
    if not (FOLDER / "candidate_cost.json").exists():
        return ""
    record = read("candidate_cost")
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
    return (
        "\n## What a candidate costs\n\n"
        f"In dense rollouts of the same {record['probes']} probes, sampled between the candidates: the mean over a "
        f"search of {record['generations']} generations on {record['model'].removeprefix('zoo:')} at "
        f"{record['sparsity']:.0%} ({record['stages']} stages, {record['steps']} steps, {record['metric'].upper()}). "
        "On a CPU the ratio is one of processor time; that of wall time, beside it, takes in whatever else the machine "
        "did meanwhile.\n\n" + table(headings, rows) + origin(record)
    )


if __name__ == "__main__":
    main()
