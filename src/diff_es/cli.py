"""The command line: parses, calls verbs, exits.

Exit codes: 0 = done, 1 = the input cannot be used, 2 = wrong usage, 130 = interrupted (Ctrl-C), 143 = terminated.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from diff_es.ending import end_on_signals, exit_code, message_of
from diff_es.errors import InputError

app = typer.Typer(
    help="Make a diffusion model faster without retraining: prune it stage by stage, search how much, run the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
zoo_app = typer.Typer(help="The small trained models that ship with Diff-ES.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")

_out = Console()
_err = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
DeviceOption = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda, cuda:1, …")]

# Commands import what they need when they run, so that --help does not wait for torch and diffusers.
# ruff: noqa: PLC0415


@app.command()
def run(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    recipe: Annotated[
        Path, typer.Argument(help="A recipe in YAML, or the name of a shipped one: demo, fast, balanced, best.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run directory; new, unless --resume.")],
    model: Annotated[str | None, typer.Option(help="The model, in place of the recipe's: as for `inspect`.")] = None,
    prompts: Annotated[str | None, typer.Option(help="File of prompts, in place of the recipe's.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any other key in place of the recipe's: search.sparsity=0.4.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    workers: Annotated[int | None, typer.Option(help="Worker processes (Ray), one per GPU; 1: this process.")] = None,
    worker_threads: Annotated[
        int | None, typer.Option(help="Threads of each worker on a CPU, by default 1; they move last bits.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster for the workers: auto, or host:port of its head.")
    ] = None,
    worker_patience: Annotated[
        float | None, typer.Option(help="Hours before which no task of a worker counts as hanging.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, estimate time, memory and disk, stop.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Prune a model as a recipe says: calibrate, prune, search, save, measure, report.

    Example: diff-es run demo --output runs/demo

    Your own: diff-es run fast --model MODEL --prompts prompts.txt --output runs/fast

    On four GPUs: diff-es run balanced --model MODEL --workers 4 --output runs/balanced
    """
    from diff_es import views
    from diff_es.execution import asked_for
    from diff_es.recipe import Recipe, setting
    from diff_es.run import Session, compress, estimate

    named = {name: value for name, value in (("model", model), ("prompts", prompts)) if value is not None}
    parsed = Recipe.read(_shipped(recipe), {**named, **dict(setting(text) for text in changes or [])})
    crew = asked_for(workers, ray_address, worker_threads, worker_patience)
    if dry_run:
        predicted = estimate(Session(parsed, output))
        _show(as_json, views.estimate_json(predicted), lambda: views.estimate_table(predicted))
        return
    shared = {"workers": workers, "worker-threads": worker_threads, "worker-patience": worker_patience}
    options = {**named, **shared, "ray-address": ray_address}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    given += [f"--set={text}" for text in changes or []]
    command = shlex.join(["diff-es", "run", str(recipe), "--output", str(output), *given, *["--resume"] * resume])
    with _told():
        result = compress(parsed, output, resume=resume, command=command, workers=crew)
    _show(as_json, views.run_json(result), lambda: views.run_table(result))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="zoo:NAME, a folder, or a Hugging Face id of a diffusers pipeline.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what is prunable in a model, its MACs and parameters, and what is left alone and why."""
    from diff_es import views
    from diff_es.pipelines import load_pipeline
    from diff_es.run import inspect_model

    inspection = inspect_model(load_pipeline(model, device="cpu"))
    _show(as_json, views.inspection_json(inspection), lambda: views.inspection_table(inspection))


@app.command()
def generate(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    artefact: Annotated[Path, typer.Argument(help="The artefact: the folder `pruned` of a run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("images"),
    labels: Annotated[list[int] | None, typer.Option("--label", help="Class label; repeat for several.")] = None,
    prompts: Annotated[list[str] | None, typer.Option("--prompt", help="Prompt; repeat for several.")] = None,
    count: Annotated[int, typer.Option(help="Number of images; labels or prompts are gone round.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the first image; the next ones follow.", min=0)] = 0,
    model: Annotated[str | None, typer.Option(help="The dense model; by default the one the artefact names.")] = None,
    device: DeviceOption = "auto",
    mode: Annotated[
        Literal["auto", "resident", "stream", "gather"], typer.Option(help="Where the stages' weights live.")
    ] = "auto",
    memory_limit_gib: Annotated[float | None, typer.Option(help="With mode auto: GPU memory for the weights.")] = None,
) -> None:
    """Generate images with a pruned model: from class labels, or a text-to-image model from prompts.

    Where the weights of all stages do not fit on the GPU, those of two are kept there and the next ones copied
    meanwhile (mode stream), or each stage's are cut when it begins (gather). Mode auto takes the fastest that fits.

    Example: diff-es generate runs/demo/pruned --label 3 --label 9 --count 4
    """
    from diff_es.run import generate_images

    if memory_limit_gib is not None and not math.isfinite(memory_limit_gib):
        raise InputError(f"--memory-limit-gib={memory_limit_gib} must be a finite number.")
    limit = None if memory_limit_gib is None else int(memory_limit_gib * 2**30)
    paths = generate_images(
        artefact,
        output,
        labels=labels,
        prompts=prompts,
        count=count,
        seed=seed,
        model=model,
        device=device,
        mode=mode,
        memory_limit=limit,
    )
    _say(f"{len(paths)} images in {output}")


@app.command()
def evaluate(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    target: Annotated[str, typer.Argument(help="An artefact (`pruned` of a run), or a dense model as for `inspect`.")],
    protocol: Annotated[str, typer.Option(help="adm-imagenet256, coco2017 or fashion.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images and quality.json.")],
    reference: Annotated[Path | None, typer.Option(help="The real images: a file or folder.")] = None,
    inception_weights: Annotated[Path | None, typer.Option(help="Weights of Inception-v3; else torch's cache.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="One prompt per line, or COCO's captions file.")] = None,
    clip: Annotated[str, typer.Option(help="CLIP model.")] = "openai/clip-vit-base-patch16",
    images: Annotated[int | None, typer.Option(help="Number of images, if not the protocol's.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first, if not the protocol's.", min=0)] = None,
    steps: Annotated[int | None, typer.Option(help="Inference steps; an artefact has its own.", min=1)] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; an artefact has its own.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per call of the pipeline.", min=1)] = 16,
    model: Annotated[str | None, typer.Option(help="The dense model; by default the one the artefact names.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of a dense model: float32 (if none is given), float16, bfloat16.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Measure the quality of a model by a named protocol; a stopped evaluation goes on.

    Several processes may be given one folder at once: they share the work.

    Example: diff-es evaluate runs/demo/pruned --protocol fashion --output runs/demo/quality
    """
    from diff_es import views
    from diff_es.run.judge import JudgeConfig, judge

    config = JudgeConfig(
        protocol=protocol,
        reference=reference,
        inception_weights=inception_weights,
        prompts=prompts,
        clip=clip,
        images=images,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        model=model,
        dtype=dtype,
        device=device,
    )
    record = judge(target, output, config)
    _show(as_json, views.quality_json(record), lambda: views.quality_table(record))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A run directory, bank or artefact, or an output of `evaluate`.")],
    as_json: JsonFlag = False,
) -> None:
    """Check every file of a folder against its manifest, and every stored image against its checksum."""
    from diff_es import views
    from diff_es.run.verify import verify_folder

    checked = verify_folder(folder)
    _show(as_json, views.verification_json(checked), lambda: views.verification_table(checked))


@app.command()
def bench(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    artefact: Annotated[Path, typer.Argument(help="The artefact: the folder `pruned` of a run.")],
    batch_sizes: Annotated[list[int] | None, typer.Option("--batch-size", help="Repeat for several.", min=1)] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs at each batch size.", min=1)] = 20,
    memory: Annotated[bool, typer.Option("--memory", help="Also load both in processes of their own.")] = False,
    compile_what: Annotated[
        Literal["denoiser", "blocks", "nothing"] | None,
        typer.Option("--compile", help="What torch.compile gets, for both; on a GPU with CUDA graphs, or those alone."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The dense model; by default the one the artefact names.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Measure what a pruned model costs beside its dense one here: MACs, parameters, latency, memory.

    Without --batch-size: 1, 2, 8, 16 and 32. On a GPU plain PyTorch is often slower at launching kernels than the GPU
    at running them, and pruning then shows no gain at small batches: try --compile.

    Example: diff-es bench runs/demo/pruned --batch-size 1 --batch-size 8
    """
    from diff_es import views
    from diff_es.evaluation.latency import BATCH_SIZES
    from diff_es.run.benchmark import benchmark

    sizes = tuple(batch_sizes or BATCH_SIZES)
    result = benchmark(
        artefact,
        batch_sizes=sizes,
        repeats=repeats,
        memory=memory,
        model=model,
        device=device,
        compile_what=compile_what,
    )
    _show(as_json, views.benchmark_json(result), lambda: views.benchmark_table(result))


@app.command()
def reproduce(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    table: Annotated[str, typer.Argument(help="table1 to table11, table5-sdxl, figure1 or figure4.")],
    scale: Annotated[str, typer.Option(help="small (the shipped models) or paper (the paper's own).")] = "small",
    output: Annotated[Path, typer.Option("--output", "-o", help="All tables; they share their work there.")] = Path(
        "runs/tables"
    ),
    model: Annotated[str | None, typer.Option(help="Another dense model, such as a folder of the paper's.")] = None,
    data: Annotated[str | None, typer.Option(help="Calibration images: a folder or an npz (paper: ImageNet).")] = None,
    reference: Annotated[Path | None, typer.Option(help="ADM's reference batch, to judge images by FID.")] = None,
    inception_weights: Annotated[Path | None, typer.Option(help="Weights of Inception-v3; else torch's cache.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Make a table of the paper again and say which of its claims hold; a stopped one goes on.

    Several processes may make tables in one folder at once: they share the work. Set OMP_NUM_THREADS then, so that
    they do not fight for the processors.

    Example: diff-es reproduce table11 --scale small
    """
    from diff_es import views
    from diff_es.reproduce import reproduce as make_again
    from diff_es.run.judges import adm

    changes = {**({"model": model} if model else {}), **({"calibration": {"data": data}} if data else {})}
    given = {"model": model, "data": data, "reference": reference, "inception-weights": inception_weights}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    made = make_again(
        table,
        output,
        scale=scale,
        device=device,
        judge=adm(reference, inception_weights, device) if reference else None,
        changes=changes,
        command=shlex.join(["diff-es", "reproduce", table, "--scale", scale, *options]),
        announce=lambda expected: _err.print(views.expectation_table(expected)),
    )
    _show(as_json, views.reproduced_json(made), lambda: views.reproduced_table(made))


@app.command()
def env(as_json: JsonFlag = False) -> None:
    """Print versions and device: paste it into bug reports."""
    from diff_es import views
    from diff_es.evaluation import environment

    here = environment()
    _show(as_json, views.environment_json(here), lambda: views.environment_table(here))


@zoo_app.command("list")
def zoo_list(as_json: JsonFlag = False) -> None:
    """List the shipped models and where they lie."""
    from diff_es import views, zoo

    models = {name: str(zoo.path(name)) for name in zoo.names()}
    _show(as_json, models, lambda: views.zoo_table(models))


@zoo_app.command("train")
def zoo_train(
    name: Annotated[str, typer.Argument(help="A model of `diff-es zoo list`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and the trained model.")],
    data: Annotated[
        Path, typer.Option(help="Folder with the four Fashion-MNIST files (*.gz); Debian's package puts it here.")
    ] = Path("/usr/share/datasets/fashion-mnist"),
) -> None:
    """Train a zoo model from its recipe; a training that was stopped goes on."""
    from diff_es import zoo

    _say(f"trained: {zoo.train(name, output, data=data)}")


def main() -> None:
    """Run the command line; an expected error is one message, not a traceback."""
    stopped_by = end_on_signals("; a run goes on with --resume" if sys.argv[1:2] == ["run"] else "")
    try:
        app(prog_name="diff-es")
    except (Exception, SystemExit) as error:
        # Extensions in C may turn the end of the program into an error, or an exit code (Ray), of theirs.
        if stopped_by:
            sys.exit(exit_code(stopped_by[0]))
        message = message_of(error)
        if message is None:
            raise
        _err.print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _say(text: str) -> None:
    """Print one line as it is: a path may hold what would be markup, and is not to be broken."""
    _out.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _told() -> Iterator[None]:
    """Print what the library logs, such as what calibration and bank will take, on standard error."""
    from rich.logging import RichHandler

    handler = RichHandler(console=_err, show_time=False, show_level=False, show_path=False, markup=False)
    logger = logging.getLogger("diff_es")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _show(as_json: bool, content: Any, table: Any) -> None:
    """Print a JSON object for programs, or what `table` makes for people."""
    if as_json:
        sys.stdout.write(json.dumps(content) + "\n")
    else:
        _out.print(table())


def _shipped(recipe: Path) -> Path:
    """Return a shipped recipe where the path is no file but the name of one; a run directory may have that name too."""
    from diff_es.recipe import shipped

    path = shipped(str(recipe))
    return path if not recipe.is_file() and path.exists() else recipe
