"""The training loop that all models of the zoo share.

AdamW with gradient clipping, linear warm-up, a constant learning rate and a cosine decay to zero at the end, and an
exponential moving average (EMA) of the weights, which is the model that is kept. Because the decay has a fixed length,
a run can be planned by its number of steps without stretching the whole learning-rate curve.

Everything random at a step is derived from (seed, step), so a resumed run is bit-identical to an uninterrupted one
without any random state in the checkpoint.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from diff_es.errors import InputError
from diff_es.progress import track
from diff_es.zoo.checkpoint import load_checkpoint_, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

logger = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
LOG_NAME: Final = "training.jsonl"
_LOG_EVERY: Final = 50


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast to learn.

    Attributes:
        steps: optimizer steps in all.
        batch_size: images per step.
        learning_rate: peak learning rate.
        warmup_steps: steps of linear warm-up.
        decay_steps: the last steps, in which the learning rate falls to zero along a cosine.
        weight_decay: of AdamW.
        ema_decay: of the moving average; shorter memory in the first steps.
        workers: the batch is split into this many equal parts, each computed by a thread of its own on one core. At
            these sizes that is faster than two cores on every operation, above all on a machine with other work.
        seed: of initial weights, batches and noise.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    decay_steps: int
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(f"steps, batch_size: must be at least 1, got {self.steps}, {self.batch_size}")
        if self.workers < 1 or self.batch_size % self.workers:
            raise InputError(f"workers: must divide batch_size ({self.batch_size}), got {self.workers}")
        if min(self.warmup_steps, self.decay_steps) < 0 or self.warmup_steps + self.decay_steps > self.steps:
            raise InputError(
                f"warmup_steps + decay_steps: must lie in 0..steps ({self.steps}), "
                f"got {self.warmup_steps} + {self.decay_steps}"
            )
        if not self.learning_rate > 0.0 or not 0.0 <= self.ema_decay < 1.0:
            raise InputError(
                f"learning_rate must be positive and ema_decay in [0, 1), got {self.learning_rate}, {self.ema_decay}"
            )


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """What is written while training.

    Attributes:
        folder: run folder; holds the checkpoint and the log.
        resume: go on from the checkpoint in ``folder`` if there is one.
        checkpoint_seconds: time between checkpoints.
        snapshot_seconds: time between calls of ``on_snapshot``.
        on_snapshot: called with the EMA so far and the number of finished steps.
    """

    folder: Path
    resume: bool = True
    checkpoint_seconds: float = 180.0
    snapshot_seconds: float = 600.0
    on_snapshot: Callable[[nn.Module, int], None] | None = None


class Recipe(Protocol):
    """A frozen dataclass that says all there is to say about one training run."""

    @property
    def loop(self) -> LoopConfig:
        """The learning plan."""


class BatchLoss(Protocol):
    """Computes the loss of one batch, or of a part of one; called from several threads at a time."""

    def __call__(self, rows: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
        """Return the scalar loss of the data rows ``rows`` (B,) at ``step``; all noise comes from ``generator``."""


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """The learning rate of step ``step`` (0-based)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    into_decay = step + 1 - (config.steps - config.decay_steps)
    share = max(0.0, into_decay / max(1, config.decay_steps))
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * share))


def ema_decay_at(step: int, config: LoopConfig) -> float:
    """The decay of the moving average at step ``step``: short memory first, so that the start is forgotten."""
    return min(config.ema_decay, (1.0 + step) / (10.0 + step))


class Batches:
    """Row numbers of every batch: each epoch is one permutation derived from (seed, epoch); no batch is short."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        if batch_size > rows:
            raise InputError(f"batch_size: {batch_size} is more than the {rows} rows of the data")
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, step: int) -> torch.Tensor:
        """Return the (batch_size,) row numbers of step ``step``."""
        epoch, position = divmod(step, self._rows // self._batch_size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, 0, epoch]).permutation(self._rows)
        start = position * self._batch_size
        return torch.from_numpy(self._order[start : start + self._batch_size].copy())


def fit(model: nn.Module, loss: BatchLoss, rows: int, recipe: Recipe, save: SaveConfig) -> nn.Module:
    """Train ``model`` in place and return its EMA.

    Args:
        model: the module to train; ``loss`` must evaluate this very object.
        loss: loss of a batch of data rows.
        rows: number of data rows.
        recipe: holds the learning plan. A checkpoint written under another recipe is refused; only the number of steps
            may differ while the decay has not begun, because nothing depends on it until then.
        save: the run folder and the intervals.

    Returns:
        The EMA module after the last step, in eval mode.
    """
    run = _Run(model, recipe, save)
    batches = Batches(rows, recipe.loop.batch_size, recipe.loop.seed)
    with _threads_restored(), run.pool:
        torch.set_num_threads(run.threads)
        first = run.restore_() if save.resume else 0
        for step in track(range(first, recipe.loop.steps), "Training", total=recipe.loop.steps - first):
            run.step_(loss, batches.at(step), step)
            run.record(step + 1)
    return run.ema


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Undo what training does to PyTorch's number of threads, which is global."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The state of one run: model, EMA, optimizer, and what is written when."""

    def __init__(self, model: nn.Module, recipe: Recipe, save: SaveConfig) -> None:
        if recipe.loop.workers > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise InputError("workers: running statistics of batch norm would depend on the order of threads; set 1")
        self.model, self.recipe, self.config, self.save = model.train(), recipe, recipe.loop, save
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, self.config.learning_rate, (0.9, 0.99), weight_decay=self.config.weight_decay, fused=True
        )
        self.threads = max(1, torch.get_num_threads() // self.config.workers)
        self.pool = ThreadPoolExecutor(self.config.workers, initializer=torch.set_num_threads, initargs=(self.threads,))
        self.losses: list[float] = []
        self.logged = self.stored = self.shown = time.monotonic()
        save.folder.mkdir(parents=True, exist_ok=True)

    @property
    def _modules(self) -> Mapping[str, nn.Module]:
        return {"model": self.model, "ema": self.ema}

    def recipe_at(self, step: int) -> dict[str, Any]:
        """All that the state after ``step`` steps depends on: until the decay begins, not on the number of steps."""
        recipe: dict[str, Any] = json.loads(json.dumps(asdict(self.recipe)))  # type: ignore[call-overload]
        if step <= self.config.steps - self.config.decay_steps:
            del recipe["loop"]["steps"]
        return recipe

    def restore_(self) -> int:
        """Load the checkpoint, if there is one, and return the number of finished steps."""
        path = self.save.folder / CHECKPOINT_NAME
        if not path.exists():
            return 0
        step = load_checkpoint_(path, self._modules, self.optimizer, self.recipe_at)
        logger.info("resuming at step %d from %s", step, path)
        return step

    def record(self, done: int) -> None:
        """Write the log, the checkpoint and the snapshot when they are due after ``done`` steps."""
        last = done == self.config.steps
        if last or done % _LOG_EVERY == 0:
            self._log(done)
        if last or time.monotonic() - self.stored >= self.save.checkpoint_seconds:
            progress = {"step": done, "recipe": self.recipe_at(done)}
            save_checkpoint(self.save.folder / CHECKPOINT_NAME, self._modules, self.optimizer, progress)
            self.stored = time.monotonic()
        due = not last and time.monotonic() - self.shown >= self.save.snapshot_seconds
        if due and self.save.on_snapshot is not None:
            self.save.on_snapshot(self.ema, done)
            self.shown = time.monotonic()

    def _log(self, done: int) -> None:
        images = len(self.losses) * self.config.batch_size
        line = {
            "step": done,
            "loss": round(float(np.mean(self.losses)), 6),
            "images_per_second": round(images / (time.monotonic() - self.logged), 1),
        }
        with (self.save.folder / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.losses, self.logged = [], time.monotonic()

    def step_(self, loss: BatchLoss, rows: torch.Tensor, step: int) -> None:
        """Take one optimizer step on the data rows ``rows`` (B,)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self.config)
        parts = rows.chunk(self.config.workers)
        seeds = np.random.default_rng([self.config.seed, 1, step]).integers(2**62, size=len(parts))
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        tasks = [partial(loss, part, step, own) for part, own in zip(parts, generators, strict=True)]
        results = list(self.pool.map(self._gradients, tasks))
        for index, parameter in enumerate(self.parameters):
            parameter.grad = torch.stack([gradients[index] for _, gradients in results]).mean(0)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self._average_(ema_decay_at(step, self.config))
        self.losses.append(float(np.mean([value for value, _ in results])))

    def _gradients(self, loss: Callable[[], torch.Tensor]) -> tuple[float, tuple[torch.Tensor, ...]]:
        # Returned, not accumulated in .grad: the workers share the parameters.
        value = loss()
        return float(value.detach()), torch.autograd.grad(value, self.parameters)

    @torch.no_grad()
    def _average_(self, decay: float) -> None:
        for averaged, parameter in zip(self.ema.parameters(), self.parameters, strict=True):
            averaged.lerp_(parameter, 1.0 - decay)
        for averaged_buffer, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            averaged_buffer.copy_(buffer)
