"""Results as tables for people and as plain values for programs. The command line prints them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from diff_es.evaluation import describe_speedup, speedup
from diff_es.progress import in_bytes, in_time
from diff_es.report import main_latency, speedup_at

if TYPE_CHECKING:
    from diff_es.evaluation import Environment, LatencyRecord
    from diff_es.reproduce import Expectation, Reproduced
    from diff_es.run import Estimate, Inspection, RunResult
    from diff_es.run.benchmark import Benchmark
    from diff_es.run.judge import QualityRecord


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """The predicted cost of a run."""
    return asdict(estimate)


def estimate_table(estimate: Estimate) -> Table:
    """The predicted cost of a run."""
    table = _pairs("What this run will take")
    table.add_row("schedules to evaluate, at most", str(estimate.evaluations))
    table.add_row("search", f"about {in_time(estimate.search_seconds)}")
    table.add_row("bank", f"about {in_time(estimate.bank_seconds)}")
    table.add_row("calibration, sensitivity, measuring", f"about {in_time(estimate.other_seconds)}")
    if estimate.calibration is not None:
        table.add_row("memory of calibration, beside the model", in_bytes(estimate.calibration.bytes_at_once))
    table.add_row("memory of the search", estimate.search_memory.why)
    table.add_row("removed by the budget, at least", f"{estimate.removed:.1%} of the groups")
    if estimate.lost_to_rounding:
        table.add_row("kept by rounded widths, at most", f"{estimate.lost_to_rounding:.1%} of the channels")
    table.add_row("disk, about", in_bytes(estimate.disk_bytes))
    table.add_row("one dense image here", f"{estimate.seconds_per_image:.3f} s")
    return table


def run_json(result: RunResult) -> dict[str, Any]:
    """What a run found and where it lies."""
    return {
        "folder": str(result.folder),
        "report": str(result.report),
        "levels": list(result.search.levels),
        "fitness": result.search.fitness,
        "evaluated": result.search.evaluated,
        "evaluation": asdict(result.evaluation),
    }


def run_table(result: RunResult) -> Table:
    """The comparison of the dense model with every schedule."""
    evaluation = result.evaluation
    at = main_latency(evaluation)
    title = f"Result: open {escape(str(result.report))}"
    # Without borders and edges the columns fit a terminal of 80 characters.
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in (
        "schedule",
        "SSIM",
        "MSE",
        "labels",
        "Fréchet",
        "MACs",
        f"ms, {at.batch_size} im." if at else "ms",
        "speed-up",
    ):
        table.add_column(heading, justify="left" if heading == "schedule" else "right", no_wrap=heading == "schedule")
    for row in evaluation.schedules:
        own = row.cost.latency_of(at.batch_size, at.scope) if at else None
        table.add_row(
            row.name,
            _known(row.value("ssim"), ".4f"),
            _known(row.value("latent_mse"), ".4f"),
            _known(row.value("label_agreement"), ".1%"),
            _known(row.value("classifier_frechet"), ".2f"),
            f"{row.cost.macs_ratio:.1%}",
            f"{own.median_ms:.0f}" if own else "-",
            "" if row.is_dense or at is None else _speedup(speedup_at(evaluation, row, at)),
        )
    return table


def inspection_json(inspection: Inspection) -> dict[str, Any]:
    """What is prunable."""
    return asdict(inspection)


def inspection_table(inspection: Inspection) -> Table:
    """What is prunable, by kind of layer, and what is not."""
    title = (
        f"{inspection.architecture}: {inspection.parameters / 1e6:.2f} M parameters, {inspection.macs / 1e6:.1f} MMACs"
    )
    table = Table(title=f"{title} a call on one sample", title_justify="left")
    for heading in ("part", "layers", "groups each", "parameters", "MACs", "prunable"):
        table.add_column(heading, justify="left" if heading in {"part", "prunable"} else "right")
    for part in inspection.parts:
        groups = " / ".join(map(str, part.groups)) or "-"
        shares = f"{part.parameters / inspection.parameters:.1%}", f"{part.macs / inspection.macs:.1%}"
        table.add_row(part.name, str(part.layers or "-"), groups, *shares, part.reason or "yes")
    return table


def benchmark_json(result: Benchmark) -> dict[str, Any]:
    """What dense and pruned cost."""
    return asdict(result)


def benchmark_table(result: Benchmark) -> Table:
    """What dense and pruned cost, and how much faster that is."""
    dense, pruned = result.dense, result.pruned
    least, most = min(pruned.parameters_per_stage), max(pruned.parameters_per_stage)
    title = (
        f"{pruned.macs_ratio:.1%} of the dense MACs; {least / dense.parameters:.0%} to {most / dense.parameters:.0%} "
        "of the parameters in use, by stage"
    )
    if pruned.latency_mode not in {None, "resident"}:
        title += f"; memory mode: {pruned.latency_mode}"
    if result.compiled is not None:
        title += f"; compiled: {result.compiled}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("batch", "what", "dense, ms (p10-p90)", "pruned, ms (p10-p90)", "measured"):
        table.add_column(heading, justify="left" if heading in {"what", "measured"} else "right")
    for own, other in zip(dense.latency, pruned.latency, strict=True):
        words = describe_speedup(speedup(own.record, other.record))
        table.add_row(str(own.batch_size), own.scope, _spread(own.record), _spread(other.record), words)
    for name, cost in (("dense", dense), ("pruned", pruned)):
        if cost.memory is not None:
            table.add_row(
                "",
                f"memory, {name}",
                f"loaded {in_bytes(cost.memory.loading_bytes)}",
                f"peak {in_bytes(cost.memory.peak_bytes)}",
                cost.memory.how,
            )
    return table


def _spread(record: LatencyRecord) -> str:
    return f"{record.median_ms:.1f} ({record.p10_ms:.1f}-{record.p90_ms:.1f})"


def expectation_table(expected: Expectation) -> Table:
    """What is still to be done for a table, and how long it will take."""
    table = _pairs("What this table still needs")
    table.add_row("banks", str(expected.banks))
    table.add_row("searches", str(expected.searches))
    table.add_row("images", f"{expected.images:,}")
    table.add_row("time on this machine", f"about {in_time(expected.seconds)}")
    return table


def reproduced_json(made: Reproduced) -> dict[str, Any]:
    """A table that was made again."""
    return {"folder": str(made.folder), "report": str(made.report), "result": asdict(made.result)}


def reproduced_table(made: Reproduced) -> Table:
    """Which of the paper's claims hold."""
    table = Table(title=f"Claims: open {escape(str(made.report))}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("claim", "by", "ours", "verdict"):
        table.add_column(heading, justify="left", overflow="fold")
    for claim in made.result.claims:
        ours = f"{claim.ours[0]:.4g} / {claim.ours[1]:.4g}"
        table.add_row(f"{claim.better} before {claim.worse}", claim.metric, ours, claim.verdict)
    return table


def quality_json(record: QualityRecord) -> dict[str, Any]:
    """The measurements of one model by one protocol."""
    return asdict(record)


def quality_table(record: QualityRecord) -> Table:
    """The measurements of one model by one protocol."""
    sampling = record.protocol.sampling
    how = f"{sampling.num_inference_steps} steps, guidance {sampling.guidance_scale:g}"
    table = Table(title=f"{record.protocol.name}: {escape(record.target)}, {how}", title_justify="left")
    for heading in ("metric", "value", "better", "images", "compared with", "computed by"):
        table.add_column(heading, justify="right" if heading in {"value", "images"} else "left")
    for own in record.measurements:
        better = "higher" if own.higher_is_better else "lower"
        row = (own.metric, f"{own.value:.4f}", better, f"{own.samples.count:,}", own.reference or "-", own.computed_by)
        table.add_row(*map(escape, row))
    return table


def verification_json(checked: dict[str, int]) -> dict[str, Any]:
    """Folder → files checked."""
    return {"intact": True, "files": checked}


def verification_table(checked: dict[str, int]) -> Table:
    """Folder → files checked."""
    complete = all(checked.values())
    table = _pairs("All files are intact" if complete else "All files that are there are intact")
    for name, count in checked.items():
        table.add_row(name, f"{count} files" if count else "absent")
    return table


def environment_json(environment: Environment) -> dict[str, Any]:
    """Versions and device."""
    return asdict(environment)


def environment_table(environment: Environment) -> Table:
    """Versions and device."""
    table = _pairs("Environment")
    for name, value in asdict(environment).items():
        for key, version in value.items() if isinstance(value, dict) else [(name, value)]:
            table.add_row(key, str(version))
    return table


def zoo_table(models: dict[str, str]) -> Table:
    """Shipped models and their folders."""
    table = _pairs("Shipped models")
    for name, path in models.items():
        table.add_row(name, escape(path))
    return table


def _pairs(title: str) -> Table:
    return Table("", "", title=title, title_justify="left", show_header=False)


def _speedup(value: float) -> str:
    """A figure where it is a gain, words where it is not."""
    return f"{value:.2f}×" if round(value, 2) > 1 else describe_speedup(value)


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
