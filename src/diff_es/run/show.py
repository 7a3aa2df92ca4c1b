"""What the report of a run shows: schedules, the searches behind them, images of the same seeds, the worst cases."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from diff_es import zoo
from diff_es.artifacts import sha256
from diff_es.evaluation import DENSE, fidelity
from diff_es.report import FitnessPoint, Gallery, Provenance, ReportContent, WorstCase
from diff_es.run.measure import Bench, Contestant, evaluation_samples
from diff_es.sampling import PromptRequests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diff_es.evaluation import Evaluation, StoredSamples
    from diff_es.run.session import Session
    from diff_es.sampling import ImageRequests
    from diff_es.search import SearchResult

#: Images per row of the grid, and worst cases of each schedule.
_GRID, _WORST = 10, 4
#: Letters of a prompt that stand above an image.
_LETTERS = 32
_FASHION_LICENCE = "Fashion-MNIST, MIT licence, Zalando SE"


def report_content(
    session: Session, bench: Bench, contestants: tuple[Contestant, ...], evaluation: Evaluation, command: str
) -> ReportContent:
    """Gather everything that the report of a run shows."""
    recipe = session.recipe
    samples = evaluation_samples(session, bench, contestants)
    schedules = {entry.name: entry.schedule for entry in contestants if entry.schedule is not None}
    return ReportContent(
        title=f"{recipe.model.removeprefix('zoo:')}: {recipe.search.sparsity:.0%} of the prunable MACs removed",
        evaluation=evaluation,
        schedules=schedules,
        history={entry.name: fitness_points(session.search(entry.search)) for entry in contestants if entry.search},
        fitness=f"{recipe.search.metric} on {recipe.search.probes} probes",
        gallery=gallery(samples, session.evaluation_images(), fashion=recipe.model.startswith("zoo:fashion")),
        provenance=Provenance(
            command=command or shlex.join(["diff-es", "run", "recipe.yaml", "--output", session.folder.name]),
            recipe=recipe.dump(),
            licences=licences(recipe.model, recipe.search.metric),
            checksums={
                path.relative_to(session.folder).as_posix(): sha256(path)
                for path in sorted((session.folder / "pruned").iterdir())
            },
        ),
    )


def gallery(samples: Mapping[str, StoredSamples], requests: ImageRequests, *, fashion: bool) -> Gallery:
    """Return the first images of each contestant, and those of each schedule that differ most from dense.

    Args:
        samples: Name → stored samples, "dense" among them.
        requests: What every sample was made from.
        fashion: Whether class labels are those of Fashion-MNIST.
    """
    words = _words(requests, fashion=fashion)
    dense = samples[DENSE]
    count = min(_GRID, len(dense))
    worst = {name: _worst(own, dense, words) for name, own in samples.items() if name != DENSE}
    return Gallery(
        {name: _first(own, count) for name, own in samples.items()}, words[:count], dense.seeds[:count], worst
    )


def _first(samples: StoredSamples, count: int) -> NDArray[np.uint8]:
    """Return the first images; no file is read that holds none of them."""
    shown: list[NDArray[np.uint8]] = []
    for images in samples.images():
        shown.extend(images[: count - len(shown)].numpy())
        if len(shown) == count:
            break
    return np.stack(shown)


def _worst(own: StoredSamples, dense: StoredSamples, words: tuple[str, ...]) -> tuple[WorstCase, ...]:
    """Return the images that differ most, worst first; two files are in memory at a time."""
    worst: list[WorstCase] = []
    seeds, first = dense.seeds, 0
    for theirs, mine in zip(dense.images(), own.images(), strict=True):
        values = fidelity({"images": mine}, {"images": theirs}, ("ssim",))["ssim"]
        for row in values.argsort(stable=True)[:_WORST].tolist():
            pair = (theirs[row].numpy().copy(), mine[row].numpy().copy())  # a view would keep the whole file
            worst.append(WorstCase(seeds[first + row], float(values[row]), *pair, words[first + row]))
        worst = sorted(worst, key=lambda case: case.ssim)[:_WORST]
        first += len(values)
    return tuple(worst)


def _words(requests: ImageRequests, *, fashion: bool) -> tuple[str, ...]:
    """What each image is called: its class, or its prompt, shortened."""
    if isinstance(requests, PromptRequests):
        return tuple(textwrap.shorten(prompt, _LETTERS, placeholder="…") for prompt in requests.prompts)
    return tuple(zoo.CLASS_NAMES[label] if fashion else str(label) for label in requests.labels)


def licences(model: str, metric: str) -> dict[str, str]:
    """Return the licences that a result stands on, as far as they are known here."""
    known = {}
    if model.startswith("zoo:"):
        known[model] = f"Apache-2.0, trained on {_FASHION_LICENCE}"
    else:
        known[model] = "see the model card: a pruned model falls under the licence of the dense one"
    if metric == "topiq":
        known["topiq"] = "pyiqa, PolyForm Noncommercial 1.0.0: not for commercial use"
    return known


def fitness_points(result: SearchResult) -> tuple[FitnessPoint, ...]:
    """Return the survivors of each generation that has a usable one."""
    return tuple(
        FitnessPoint(record.generation, record.population.best, record.population.mean, record.population.worst)
        for record in result.history
        if record.population.best is not None
        and record.population.mean is not None
        and record.population.worst is not None
    )
