"""What a pruned model costs beside its dense one on this machine: multiply-adds, parameters, latency, memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from diff_es.bank import Pruned
from diff_es.denoisers import denoiser_of
from diff_es.evaluation import (
    Cost,
    Environment,
    MemoryRecord,
    Scope,
    environment,
    measure_batch_sizes,
    measure_costs,
    routing_contender,
)
from diff_es.evaluation.latency import BATCH_SIZES
from diff_es.evaluation.memory import compare_memory
from diff_es.routing import Compiled, compiled
from diff_es.run.base import load_base
from diff_es.run.measure import DENSE

PRUNED = "pruned"


@dataclass(frozen=True)
class Benchmark:
    """What dense and pruned cost on one machine.

    Attributes:
        artefact: The folder that was measured.
        dense: The dense model's costs.
        pruned: The artefact's.
        environment: Where they were measured.
        compiled: What `compile_` was given while they were timed; None where plain PyTorch ran.
    """

    artefact: str
    dense: Cost
    pruned: Cost
    environment: Environment
    compiled: Compiled | None = None


def benchmark(  # noqa: PLR0913 (the options of the command)
    artefact: Path,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    scopes: Sequence[Scope] = ("denoiser", "pipeline"),
    repeats: int = 20,
    memory: bool = False,
    model: str | None = None,
    device: str = "auto",
    compile_what: Compiled | None = None,
) -> Benchmark:
    """Measure an artefact against its dense model; their runs alternate, and both are run in the same way.

    Args:
        artefact: The folder `pruned` of a run.
        batch_sizes: Images per call.
        scopes: What to time: "denoiser" (one call), "pipeline" (all of it), or both.
        repeats: Timed runs at each batch size, after some that are not timed.
        memory: Also load both in processes of their own and measure the memory.
        model: The dense model; by default the one that the artefact names.
        device: "auto", "cpu", "cuda", …
        compile_what: What to compile while both are timed (see `compile_`); None times plain PyTorch.

    Raises:
        ArtifactError: the artefact is damaged.
        InputError: the dense model cannot be loaded, or a batch size or `repeats` is below 1.
    """
    source = Pruned.open(artefact)
    info = source.info
    name = model or info.base_model
    pipe = load_base(info, model, device)
    contenders = {DENSE: nullcontext, PRUNED: routing_contender(pipe, source, info.schedule)}
    where = next(denoiser_of(pipe).parameters()).device
    with nullcontext() if compile_what is None else compiled(pipe, compile_what):
        times = measure_batch_sizes(
            pipe, contenders, info.sampler, batch_sizes=batch_sizes, scopes=scopes, repeats=repeats
        )
    taken: dict[str, MemoryRecord] = {}
    if memory:
        found = compare_memory(
            name,
            artefact,
            None,
            max(batch_sizes),
            sampler=info.sampler,
            device=str(where),
            settings=("dense", "resident"),
        )
        taken = {DENSE: found["dense"], PRUNED: found["resident"]}
    costs = measure_costs(pipe, contenders, info.plan, info.sampler, latency=times)
    dense, pruned = (replace(costs[own], memory=taken.get(own)) for own in (DENSE, PRUNED))
    return Benchmark(str(artefact), dense, pruned, environment(where), compile_what)
