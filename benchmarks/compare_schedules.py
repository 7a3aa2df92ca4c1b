"""Uniform, three-stage, searched + uniform allocation, searched + sensitivity allocation, over several search seeds.

One bank, the same counted MACs, held-out probes that no search saw and that are the same for all. Each search seed
has search probes of its own. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from diff_es.baselines import three_stage
from diff_es.metrics import metrics
from diff_es.recipe import Recipe
from diff_es.run import Session
from diff_es.run.measure import Bench, Contestant
from diff_es.schedule import PruningSchedule
from results import add_output_option, finish

#: Seed of the held-out probes and of calibration; search seeds are others.
HELD_OUT = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/compare"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_output_option(parser)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    base = Session(recipe.model_copy(update={"seed": HELD_OUT}), arguments.output)
    bench = Bench(base)
    dense = Contestant("dense", "", None)
    reference = bench.probe(dense)
    rows = [row(bench, dense, reference, macs := bench.macs(dense), None)]
    for name, schedule, seed in schedules(base, arguments.output, arguments.seeds):
        label = name if seed is None else f"{name}, seed {seed}"
        rows.append(row(bench, Contestant(label, "", schedule), reference, macs, seed))
        print(rows[-1], flush=True)
    finish(
        {"benchmark": "compare_schedules", "recipe": recipe.model_dump(mode="json"), "rows": rows}
        | {"means": means(rows)},
        arguments.json,
    )


def schedules(base: Session, output: Path, seeds: list[int]) -> list[tuple[str, PruningSchedule, int | None]]:
    uniform = base.bank.uniform_allocation()
    entries: list[tuple[str, PruningSchedule, int | None]] = [
        ("uniform", uniform.resolve(base.space.uniform()), None),
        ("three-stage", uniform.resolve(three_stage(base.plan, base.space)), None),
        ("uniform stages, sensitivity", base.allocation("sensitivity").resolve(base.space.uniform()), None),
    ]
    for seed in seeds:
        session = Session(base.recipe.model_copy(update={"seed": seed}), output / f"seed-{seed}")
        vars(session).update(pipe=base.pipe, bank=base.bank, sensitivity=base.sensitivity)
        entries += [(f"searched, {name}", session.schedule(name), seed) for name in ("uniform", "sensitivity")]
    return entries


def row(bench: Bench, entry: Contestant, reference: object, dense_macs: int, seed: int | None) -> dict[str, object]:
    result, scores = bench.probe(entry), bench.classify(entry)
    assert scores is not None
    values = {
        name: float(metrics[name](result.of(metrics[name].needs), reference.of(metrics[name].needs)).mean())
        for name in ("ssim", "latent_mse")
    }
    return {
        "name": entry.name.partition(", seed")[0],
        "seed": seed,
        **values,
        "label_agreement": scores.label_agreement,
        "classifier_frechet": scores.classifier_frechet,
        "macs_ratio": bench.macs(entry) / dense_macs,
        "levels": None if entry.schedule is None else list(entry.schedule.levels),
    }


def means(rows: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    numbers = ("ssim", "latent_mse", "label_agreement", "classifier_frechet", "macs_ratio")
    names = dict.fromkeys(str(row["name"]) for row in rows)
    return {
        name: {key: mean(float(row[key]) for row in rows if row["name"] == name) for key in numbers} for name in names
    }


if __name__ == "__main__":
    main()
