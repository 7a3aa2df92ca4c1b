"""A run's steps, each of which opens what is complete on disk and makes what is missing.

That is all there is to resuming: a step that was cut off is made again, and the journal gives back every candidate
that was scored. The folder is written by one process at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from diff_es.allocation import Sensitivity, measure_sensitivity
from diff_es.artifacts import MANIFEST, read_record, remove_leftovers, write_record
from diff_es.bank import Bank, Pruned
from diff_es.baselines import SearchSettings, algorithms, journal_header, settings_for
from diff_es.calibration import (
    CalibrationConfig,
    CalibrationSource,
    CalibrationStats,
    DatasetSource,
    SamplingSource,
    calibrate,
    collect,
)
from diff_es.calibration.passes import forecast
from diff_es.denoisers import denoiser_of, dense_denoiser_of
from diff_es.errors import InputError
from diff_es.evaluation.caches import Cache, cache_for
from diff_es.fitness import (
    BatchChoice,
    TrajectoryFitness,
    bytes_beside_dense,
    check_decoder,
    choose_batch_size,
    kept_bytes,
    plan_search,
)
from diff_es.metrics import metrics
from diff_es.pipelines import load_pipeline
from diff_es.pruning import BankConfig, build, build_bank, pruners
from diff_es.recipe import Recipe
from diff_es.routing import ModePlan, save
from diff_es.run.data import check_data, load_images, stored_latents
from diff_es.run.planned import PlannedBank
from diff_es.run.requests import PromptList, Purpose, check_prompts, first_seed, read_prompt_list
from diff_es.run.tasks import Workers, calibrate_stages, prune_stages, scored_by
from diff_es.sampling import ImageRequests, PromptRequests, Requests, SamplerConfig, class_labels, takes_labels
from diff_es.schedule import Allocation, PruningSchedule, ScheduleSpace
from diff_es.schedulers import scheduler_facts, with_scheduler
from diff_es.search import (
    Evaluator,
    EvolutionConfig,
    Journal,
    JournalHeader,
    Racing,
    ScheduleSearch,
    SearchResult,
    in_process,
    search_with,
)
from diff_es.stages import StagePlan
from diff_es.timesteps import stage_plan

_log = logging.getLogger(__name__)


class Session:
    """The state of one run in one folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        pipe: Any = None,
        stock: Path | None = None,
        memory_limit: int | None = None,
    ) -> None:
        """Take the recipe; all else is made when asked for.

        Args:
            recipe: What to do.
            folder: Where results are kept.
            pipe: The dense pipeline, where it is loaded already.
            stock: Where calibration, bank and sensitivity are kept, if several runs share them; else `folder`.
            memory_limit: Bytes of device memory for the search's weights and what comes with them (see `plan_search`);
                by default what is free.
        """
        self.recipe = recipe
        self.folder = folder
        self.stock = stock or folder
        self._memory_limit = memory_limit
        #: What shares out the work; without, this process does it itself.
        self.workers: Workers | None = None
        if pipe is not None:
            self.pipe = self._with_scheduler(pipe)

    def check(self) -> None:
        """Find out whether the recipe can be carried out, before anything is computed or written.

        Raises:
            InputError: unknown pruner or metric, a model that cannot be pruned, more stages than steps, a budget that
                no schedule meets, too little memory for the largest layer's Hessian or for the weights of the search,
                prompts that are missing, too few, or for a class-conditional model, or a cache that the model cannot
                have.
        """
        search = self.recipe.search
        _ = self.pruner_config, metrics[search.metric], self.evolution, algorithms[search.algorithm]
        if self.recipe.calibration.source == "sampling" and "importance" in pruners[self.pruner_config.method].needs:
            raise InputError(
                f"pruning.method={self.pruner_config.method} needs the noise that was added to clean images, which "
                "calibration.source=sampling does not know; use source: dataset."
            )
        dense_denoiser_of(self.pipe)
        check_decoder(self.pipe)
        check_prompts(self.recipe, self.pipe)
        check_data(self.recipe.calibration, self.pipe)
        _ = self.search_probes(), self.space, self.planned_memory
        if self.calibration_config.collect:  # whether the memory limit holds the largest layer
            forecast(self.pipe, self.calibration_config, sets=1, live=False)
        if self.cache is not None:
            self.cache.check(self.pipe)

    @cached_property
    def pipe(self) -> Any:
        """The dense pipeline."""
        return self._with_scheduler(load_pipeline(self.recipe.model, self.recipe.dtype, self.recipe.device))

    def _with_scheduler(self, pipe: Any) -> Any:
        """Return the pipeline with the scheduler that the recipe names; a given one keeps its own."""
        section = self.recipe.sampler
        return with_scheduler(pipe, section.scheduler, section.scheduler_options) if section.scheduler else pipe

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs."""
        return next(denoiser_of(self.pipe).parameters()).device

    @cached_property
    def plan(self) -> StagePlan:
        """The stages over the sampler's own steps."""
        return stage_plan(self.pipe, self.recipe.stages, self.recipe.sampler.steps, self.recipe.sampler.arguments)

    @property
    def sampler(self) -> SamplerConfig:
        """Steps and guidance."""
        section = self.recipe.sampler
        return SamplerConfig(section.steps, section.guidance_scale, section.arguments)

    @property
    def cache(self) -> Cache | None:
        """What is on the pruned models while they are measured."""
        section = self.recipe.evaluation
        return cache_for(section.deep_cache, section.first_block_cache)

    @property
    def pruner_config(self) -> BankConfig:
        """How the bank is made."""
        section = self.recipe.pruning
        return BankConfig(section.method, section.levels, section.damping, section.intercept, section.width_multiple)

    @property
    def calibration_config(self) -> CalibrationConfig:
        """What is collected, and within which memory."""
        return CalibrationConfig(
            stages=self.plan,
            collect=pruners[self.pruner_config.method].needs,
            shared=self.recipe.calibration.shared,
            memory_limit=int(self.recipe.calibration.memory_limit_gib * 2**30),
        )

    @cached_property
    def source(self) -> CalibrationSource:
        """Where calibration inputs come from."""
        section = self.recipe.calibration
        if section.source == "sampling":
            requests = self.requests(Purpose.CALIBRATION_RUNS, section.samples)
            return SamplingSource(requests, self.sampler, section.batch_size)
        images = load_images(section, self.pipe, self.sampler.arguments)
        latents, shown = stored_latents(self.pipe, images, self.stock / "latents", section.batch_size)
        return DatasetSource(latents, shown, self.sampler, section.batch_size, self.recipe.seed)

    @cached_property
    def prompts(self) -> PromptList | None:
        """What a text-to-image model is asked for; None for a class-conditional one.

        Raises:
            InputError: the recipe names none, or some for a class-conditional model, or they cannot be read.
        """
        check_prompts(self.recipe, self.pipe)
        return None if takes_labels(self.pipe) else read_prompt_list(self.recipe.prompts)

    @cached_property
    def bank(self) -> Bank:
        """The bank; calibrates first where needed."""
        folder = self.stock / "bank"
        if (folder / MANIFEST).exists():
            return Bank.open(folder)
        stats, config = self.statistics, self.pruner_config
        if self.workers is not None:
            prune_stages(self.workers, build.missing_stages(self.pipe, stats, self.plan, config, folder))
            remove_leftovers(folder)  # those of workers that died; the manifest lists all files
        return build_bank(self.pipe, stats, self.plan, config, folder)

    def prune_stage(self, stage: int) -> None:
        """Write one stage of the bank, after all statistics were collected."""
        build.prune_stage(self.pipe, self.statistics, self.pruner_config, stage, self.stock / "bank")

    @cached_property
    def statistics(self) -> CalibrationStats:
        """The calibration statistics."""
        folder, config = self.stock / "calibration", self.calibration_config
        if self.workers is not None:
            calibrate_stages(self.workers, collect.missing_stages(self.pipe, self.source, config, folder))
            remove_leftovers(folder)  # of workers that died
        return calibrate(self.pipe, self.source, config, folder)

    def calibrate_stages(self, stages: Sequence[int | None]) -> None:
        """Write the statistics of some stages, or the one set of all."""
        collect.calibrate_stages(self.pipe, self.source, self.calibration_config, stages, self.stock / "calibration")

    @cached_property
    def space(self) -> ScheduleSpace:
        """The schedules that meet the budget; known without the bank, so that an infeasible one costs nothing."""
        levels = self.recipe.pruning.levels
        caps = (levels,) * self.plan.num_stages
        return ScheduleSpace(self.plan.steps_per_stage, levels, self.recipe.search.sparsity, caps)

    @cached_property
    def planned_memory(self) -> ModePlan:
        """The memory mode of the search, known before there is a bank: under the uniform allocation."""
        bank = PlannedBank(dense_denoiser_of(self.pipe), self.pruner_config, self.plan)
        allocation = Allocation.uniform(bank.layers, self.plan.num_stages, bank.num_levels)
        return plan_search(self.pipe, bank, allocation, self.space, self._memory_limit)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """What each layer's levels hurt."""
        path = self.stock / "search" / "sensitivity.json"
        if path.exists():
            return read_record(path, Sensitivity)
        measured = measure_sensitivity(self.pipe, self.bank, self.source, self.recipe.search.sensitivity_samples)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, measured)
        return measured

    @cached_property
    def search_batch_size(self) -> int:
        """Probes per run of the pipeline; what was measured is kept, since fitness values depend on it in last bits."""
        wanted = self.recipe.search.batch_size
        if wanted != "auto":
            return wanted
        path = self.stock / "search" / "batch_size.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            occupied = bytes_beside_dense(denoiser_of(self.pipe), self.planned_memory)
            write_record(path, choose_batch_size(self.pipe, self.search_probes(), self.sampler, occupied))
        return read_record(path, BatchChoice).batch_size

    def allocation(self, name: str) -> Allocation:
        """Return the allocation of that name, "uniform" or "sensitivity"."""
        uniform = self.bank.uniform_allocation()
        return uniform if name == "uniform" else self.sensitivity.allocation(uniform)

    def search(self, allocation: str) -> SearchResult:
        """Search under one allocation, going on where an earlier run stopped."""
        folder = self.folder / "search" / allocation
        if (folder / "result.json").exists():
            return read_record(folder / "result.json", SearchResult)
        evaluate = self._evaluator(allocation)
        with Journal(folder / "journal.jsonl", self.journal_header(allocation)) as journal:
            result = search_with(self.algorithm(), evaluate, journal, seed=self.search_seed)
        write_record(folder / "result.json", result)
        return result

    def _evaluator(self, allocation: str) -> Evaluator:
        self.allocation(allocation)  # measured here, and read by the workers
        if self.workers is None:
            return in_process(self.fitness(allocation))
        return scored_by(self.workers, allocation)

    def algorithm(self) -> ScheduleSearch:
        """Return the recipe's search algorithm, which has not been told anything yet."""
        return algorithms[self.recipe.search.algorithm](self.space, self.plan, self._algorithm_settings())

    def _algorithm_settings(self) -> SearchSettings:
        return settings_for(self.recipe.search.algorithm, self.space, self.evolution)

    @property
    def evolution(self) -> EvolutionConfig:
        """Settings of the search."""
        section = self.recipe.search
        return EvolutionConfig(
            generations=section.generations,
            survivors=section.survivors,
            offspring=section.offspring,
            max_mutation=section.max_mutation,
            seed=self.search_seed,
            racing=Racing(section.racing_probes, section.racing_margin) if section.racing_margin else None,
        )

    @property
    def search_seed(self) -> int:
        """Seed of the search and of its probes."""
        own = self.recipe.search.seed
        return self.recipe.seed if own is None else own

    def fitness(self, allocation: str) -> TrajectoryFitness:
        """Return the fitness on the search's probes."""
        section, layers = self.recipe.search, self.allocation(allocation)
        plan = plan_search(self.pipe, self.bank, layers, self.space, self._memory_limit)
        _log.info("Memory mode of the search, allocation %s: %s", allocation, plan.why)
        kept = kept_bytes(plan)
        return TrajectoryFitness(
            self.pipe,
            self.bank,
            self.search_probes(),
            layers,
            metric=section.metric,
            sampler=self.sampler,
            batch_size=self.search_batch_size,
            replay_bytes=kept.replay,
            mode=plan.mode,
            cache_bytes=kept.thin,
        )

    def schedule(self, allocation: str) -> PruningSchedule:
        """Return the best schedule of a finished search."""
        return self.allocation(allocation).resolve(self.search(allocation).levels)

    def pruned(self) -> Pruned:
        """Return the artefact of the recipe's search, written where it is missing."""
        folder = self.folder / "pruned"
        if folder.exists():
            return Pruned.open(folder)
        return save(
            folder,
            self.pipe,
            self.bank,
            self.schedule(self.recipe.search.allocation),
            sampler=self.sampler,
            base_model=self.recipe.model,
        )

    def requests(self, purpose: int, count: int, seed: int | None = None) -> ImageRequests:
        """Return images to sample, with seeds that no other purpose of the run shares."""
        own = self.recipe.seed if seed is None else seed
        first = first_seed(own, purpose)
        if self.prompts is None:
            return Requests.cycle(class_labels(self.pipe), count, first)
        part = self.prompts.part(purpose, self.recipe.search.probes, self.recipe.evaluation.images)
        return PromptRequests.cycle(part.prompts, count, first, part.labels)

    def search_probes(self) -> ImageRequests:
        """Images that the search scores schedules on."""
        return self.requests(Purpose.SEARCH_PROBES, self.recipe.search.probes, self.search_seed)

    def evaluation_images(self) -> ImageRequests:
        """Images that quality is measured on; no search saw them."""
        return self.requests(Purpose.EVALUATION_IMAGES, self.recipe.evaluation.images)

    def journal_header(self, allocation: str) -> JournalHeader:
        """Return everything that the search under one allocation depends on."""
        name, probes = self.recipe.search.algorithm, self.search_probes()
        info = TypeAdapter(type(self.bank.info)).dump_json(replace(self.bank.info, versions={}))
        table = TypeAdapter(Allocation).dump_json(self.allocation(allocation))
        # A file of prompts may change, labels cannot.
        prompts = json.dumps(probes.prompts if isinstance(probes, PromptRequests) else None)
        return journal_header(
            name,
            hashlib.sha256(info + table + prompts.encode()).hexdigest(),
            self.space,
            self._algorithm_settings(),
            {
                "metric": self.recipe.search.metric,
                "probes": len(probes),
                "batch_size": self.search_batch_size,
                "sampler": asdict(self.sampler),
                "scheduler": type(self.pipe.scheduler).__name__,
                "scheduler_options": scheduler_facts(self.pipe.scheduler),
                "device": self.device.type,
                "seed": self.search_seed,
            },
        )
