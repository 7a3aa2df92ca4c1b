"""SCORE a schedule: sample fixed probes with the routed model and measure the results.

Most metrics compare with the dense model's results, which are sampled once. A metric without a reference looks at
the routed images alone; the dense model is then never run.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import check_plain_calls, check_uncompiled, dense_denoiser_of
from diff_es.errors import InputError
from diff_es.fitness.prompts import PromptEncodings
from diff_es.fitness.replay import CallCount, ReplayStore, replayed
from diff_es.fitness.result import Result, check_decoder, run
from diff_es.metrics import Metric, metrics
from diff_es.routing import Mode, Router, check_model, install_, remove_
from diff_es.sampling import ImageRequests, SamplerConfig
from diff_es.search import Outcome, Rival
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from diff_es.bank import ThinSource
    from diff_es.schedule import Allocation, Levels, PruningSchedule

#: Bytes of denoiser outputs that are kept for replay.
DEFAULT_REPLAY_BYTES = 2 * 2**30
#: Thin layers kept beyond the present schedule, for a candidate that comes back to them.
DEFAULT_CACHE_BYTES = 2 * 2**30


class TrajectoryFitness:
    """The fitness of stage levels under one allocation, on fixed probes.

    The model is dense between calls: each call installs the router, samples, and removes it.
    """

    def __init__(  # noqa: PLR0913 (each is one independent fact of the measurement)
        self,
        pipe: Any,
        source: ThinSource,
        probes: ImageRequests,
        allocation: Allocation,
        *,
        metric: str | Metric = "ssim",
        sampler: SamplerConfig | None = None,
        batch_size: int = 16,
        replay_bytes: int = DEFAULT_REPLAY_BYTES,
        mode: Mode = "resident",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Prepare the measurement.

        Args:
            pipe: The dense pipeline.
            source: The bank.
            probes: Labels or prompts, and seeds; the search should never share them with the final evaluation.
            allocation: What stage levels mean for layers.
            metric: A registered metric, or one of your own. Its mean over the probes is the fitness, negated where
                lower is better.
            sampler: Steps and guidance; the steps must be the ones that the bank's stages were made for.
            batch_size: Probes per run of the pipeline.
            replay_bytes: Bytes of denoiser outputs to keep for replay; 0 turns replay off.
            mode: Where the weights of a candidate's stages live (see `plan_search`); scores are the same in all modes.
            cache_bytes: Bytes of thin layers to keep beyond the present candidate (resident mode).

        Raises:
            InputError: unknown metric or mode, or a sampler whose steps are not the plan's.
            UnsupportedModelError: the bank belongs to another model, the denoiser has a cache or is compiled, or the
                pipeline has no VAE.
        """
        self.metric = metrics[metric] if isinstance(metric, str) else metric
        self.allocation = allocation
        self._pipe = pipe
        self._denoiser = dense_denoiser_of(pipe)
        check_decoder(pipe)
        check_model(self._denoiser, source)
        check_plain_calls(self._denoiser, "The fitness")
        check_uncompiled(self._denoiser, "The fitness")
        self._source = source
        self._sampler = sampler or SamplerConfig(len(source.plan.timesteps))
        _check_steps(pipe, source.plan, self._sampler)
        self._batches: list[ImageRequests] = list(probes.batches(batch_size))
        self._store = ReplayStore(replay_bytes)
        self._encodings = PromptEncodings()
        self._router = Router(self._denoiser, source, mode, cache_bytes)

    def __call__(self, levels: Levels, rival: Rival | None = None) -> Outcome:
        """Score stage levels, see `score`."""
        return self.score(self.allocation.resolve(levels), rival)

    def score(self, schedule: PruningSchedule, rival: Rival | None = None) -> Outcome:
        """Score a schedule: the mean over the probes, higher is better; NaN where an image or latent is NaN.

        Args:
            schedule: The schedule.
            rival: Whom it has to beat: after a batch in which it has fallen too far behind it is dropped.

        Raises:
            InputError: a race without a second batch.
        """
        if rival is not None and len(self._batches) == 1:
            raise InputError("racing: all probes are in one batch; give a batch_size below the number of probes.")
        total, parts, estimate = CallCount(), [], None
        for index, result in enumerate(self._sample(schedule, total)):
            parts.append(self._score(result, self._dense[index] if self.metric.reference else None))
            estimate = rival.estimate(torch.cat(parts).tolist()) if rival is not None else None
            if estimate is not None:
                break
        scores = torch.cat(parts)
        fitness = float(scores.mean()) if estimate is None else estimate
        self._store.rate(total.keys, fitness)
        return Outcome(fitness, total.run, total.replayed, tuple(scores.tolist()), dropped=estimate is not None)

    def sample(self, schedule: PruningSchedule) -> list[Result]:
        """Return the routed results, one per batch of probes, where the pipeline made them."""
        return list(self._sample(schedule, CallCount()))

    def _sample(self, schedule: PruningSchedule, total: CallCount) -> Iterator[Result]:
        """Sample batch after batch; the model is dense again whenever a result is looked at."""
        self._router.set_schedule(schedule)
        for index, batch in enumerate(self._batches):
            install_(self._denoiser, self._router)
            try:
                with replayed(self._denoiser, self._source.plan, schedule, index, self._store) as count:
                    result = self._run(batch)
            finally:
                remove_(self._pipe)
            total.add(count)
            yield result

    def _score(self, result: Result, dense: Result | None) -> Tensor:
        """Score one batch, (N,), where its images lie: comparing them costs a GPU nothing, and a CPU much."""
        needs = self.metric.needs
        return self.metric.score(result.of(needs), None if dense is None else dense.of(needs)).cpu()

    @cached_property
    def _dense(self) -> list[Result]:
        """The dense results, one per batch of probes."""
        return [self._run(batch) for batch in self._batches]

    def _run(self, batch: ImageRequests) -> Result:
        with self._encodings.used_by(self._pipe):
            return run(self._pipe, batch, self._sampler, decode=self.metric.needs == "images", device=None)


def _check_steps(pipe: Any, plan: StagePlan, sampler: SamplerConfig) -> None:
    """Another sampler or step count would run stages of other lengths than the budget counts."""
    steps = stage_plan(pipe, plan.num_stages, sampler.num_inference_steps, sampler.arguments).timesteps
    if steps != plan.timesteps:
        raise InputError(
            f"{type(pipe.scheduler).__name__} with {sampler.num_inference_steps} steps visits other timesteps than "
            "the bank's stages were made for; make the plan and the bank with this sampler and step count."
        )
