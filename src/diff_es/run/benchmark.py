"""What a pruned model costs beside its dense one on this machine: multiply-adds, parameters, latency, memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diff_es.bank import Pruned
from diff_es.denoisers import denoiser_of
from diff_es.errors import DiffESError
from diff_es.evaluation import (
    DENSE,
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
from diff_es.routing import Compiled, Mode, compiled
from diff_es.run.base import load_base
from diff_es.run.turns import plan_turns

_log = logging.getLogger(__name__)

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
    memory_limit: int | None = None,
) -> Benchmark:
    """Measure an artefact against its dense model; their runs alternate, and both are run in the same way.

    Args:
        artefact: The folder `pruned` of a run.
        batch_sizes: Images per call.
        scopes: What to time: "denoiser" (one call), "pipeline" (all of it), or both.
        repeats: Timed runs at each batch size, after some that are not timed.
        memory: Also load both in processes of their own and measure the memory; a failure there is a warning.
        model: The dense model; by default the one that the artefact names.
        device: "auto", "cpu", "cuda", …
        compile_what: What to compile while both are timed (see `compile_`); None times plain PyTorch.
        memory_limit: Bytes of device memory for the denoiser's weights and activations; by default what is free. The
            pruned model is timed in the fastest memory mode that fits.

    Raises:
        ArtifactError: the artefact is damaged.
        InputError: the dense model cannot be loaded, the pruned one fits in no memory mode, or a batch size or
            `repeats` is below 1.
    """
    source = Pruned.open(artefact)
    pipe = load_base(source.info, model, device)
    where = next(denoiser_of(pipe).parameters()).device
    plan = plan_turns(pipe, [(source, source.info.schedule)], memory_limit)
    _log.info("Memory mode of the pruned model: %s", plan.why)
    contenders = {DENSE: nullcontext, PRUNED: routing_contender(pipe, source, source.info.schedule, plan.mode)}
    with nullcontext() if compile_what is None else compiled(pipe, compile_what):
        times = measure_batch_sizes(
            pipe, contenders, source.info.sampler, batch_sizes=batch_sizes, scopes=scopes, repeats=repeats
        )
    costs = measure_costs(pipe, contenders, source.info.plan, source.info.sampler, latency=times)
    costs[PRUNED] = replace(costs[PRUNED], latency_mode=plan.mode)
    if memory:
        # What is measured next is loaded beside this one, which may fill the device.
        del pipe, contenders
        gc.collect()
        torch.cuda.empty_cache()
        taken = _memory(artefact, model or source.info.base_model, max(batch_sizes), where, plan.mode)
        costs = {own: replace(cost, memory=taken.get(own)) for own, cost in costs.items()}
    return Benchmark(str(artefact), costs[DENSE], costs[PRUNED], environment(where), compile_what)


def _memory(artefact: Path, model: str, batch_size: int, device: torch.device, mode: Mode) -> dict[str, MemoryRecord]:
    """Measure the memory of both; a failure costs no more than these figures."""
    try:
        found = compare_memory(model, artefact, None, batch_size, device=str(device), settings=("dense", mode))
    except DiffESError as error:
        _log.warning("The memory was not measured: %s", error)
        return {}
    return {DENSE: found["dense"], PRUNED: found[mode]}
