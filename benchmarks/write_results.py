"""Write docs/results/README.md from the JSON files beside it, so that no number is typed by hand."""

from __future__ import annotations

from pathlib import Path

from pages import FOLDER, origin, read, table

INTRODUCTION = """# Results

Every number on this page comes from a JSON file in this folder, which also holds the command, the commit, the date,
the library versions and the machine. `python benchmarks/write_results.py` writes the page from the files. The models
are the small ones that ship with Diff-ES, unless a section says otherwise; nothing on this page was measured on a GPU.
Latency, memory, and the cost of calibration, bank and search are on [a page of their own](performance.md).
"""


def main() -> None:
    sections = [
        INTRODUCTION,
        paper_tables(),
        zoo_quality(),
        dit_xl_macs(),
        real_sizes(),
        toy_landscapes(),
        closed_form(),
    ]
    (FOLDER / "README.md").write_text("\n".join(filter(None, sections)), encoding="utf-8")


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


def closed_form() -> str:
    record = read("closed_form")
    return (
        "\n## OBS against the closed form\n\n"
        f"All {record['levels_checked']} levels (every stage, layer and level that keeps something) of fashion-dit: "
        f"largest relative error {record['max_relative_error']:.1e} in float64, "
        f"{record['max_relative_error_as_stored']:.1e} as stored in float32.\n" + origin(record)
    )


if __name__ == "__main__":
    main()
