"""Write docs/accelerators.md from the tests' own list of pipelines: `python docs/make_accelerators.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pipelines.registry import COMPILED, PIPELINES, replays

PAGE = Path(__file__).with_name("accelerators.md")
RESULT = Path(__file__).with_name("results") / "accelerators.json"


@dataclass(frozen=True)
class Row:
    """One accelerator beside a routed model.

    Attributes:
        what: Its name.
        verdict: "works", "refused", or both with what decides.
        how: How it is used, or why it is refused and what to do instead.
        tests: The tests that show it, as "file: name", below tests/.
    """

    what: str
    verdict: str
    how: str
    tests: tuple[str, ...]


_CACHES, _COMPILED = "pipelines/test_caches.py", "pipelines/test_compiled.py"
_VERB, _CUDA = "pipelines/test_compile_verb.py", "gpu/test_cuda.py"
_GROUPS, _DEEP = "pipelines/test_group_offload.py", "pipelines/test_deepcache.py"
_LORA, _MEASURED = "pipelines/test_lora.py", "pipelines/test_caches_in_measurements.py"
_ROUTED, _STEPS = "pipelines/test_routed_pipelines.py", "pipelines/test_steps.py"

ROWS: tuple[Row, ...] = (
    Row(
        "Fewer steps by another sampler",
        "works",
        "`sampler.scheduler` and `sampler.scheduler_options` of the [recipe](recipe.md#sampler): the schedule is "
        "searched with it, the artefact records it, `diff-es generate` uses it, and `load` warns where a pipeline has "
        "another.",
        ("run/test_other_scheduler.py: test_the_artefact_records_it_and_images_are_made_with_it",),
    ),
    Row(
        "Half precision",
        "works",
        "Load the pipeline in the dtype of the pruned weights, or move the routed one with `.to(dtype)`. Stages are "
        "found from rounded timesteps too.",
        (f"{_STEPS}: test_a_pipeline_in_half_precision_routes_by_its_steps",),
    ),
    Row(
        "Model CPU offload",
        "works",
        "`pipe.enable_model_cpu_offload()`, before or after routing.",
        (f"{_ROUTED}: test_model_offload_in_both_orders",),
    ),
    Row(
        "Group offload",
        "works; refused with `use_stream=True` or a disk",
        "`pipe.transformer.enable_group_offload(…)` by blocks or leaves, before or after routing (before, where blocks "
        "are dropped). Streams and disks are filled from the weights that were there at first, and those change from "
        "stage to stage.",
        (
            f"{_GROUPS}: test_it_changes_nothing",
            f"{_GROUPS}: test_dropped_blocks_keep_the_offload_that_they_had",
            f"{_GROUPS}: test_streams_are_refused",
            f"{_GROUPS}: test_a_disk_that_was_filled_once_is_refused",
        ),
    ),
    Row(
        "Sequential CPU offload",
        "refused",
        "The weights are not in memory between calls. Use model CPU offload.",
        ("denoisers/test_plain_denoisers.py: test_weights_on_the_meta_device_are_refused",),
    ),
    Row(
        "`compile_(pipe)`",
        "works",
        "`torch.compile` of the denoiser's forward with the limit on graphs raised, and on a GPU a CUDA graph per "
        "stage; "
        '`"blocks"` compiles sooner, `"nothing"` makes CUDA graphs alone. Before or after routing; '
        "`uncompile_(pipe)` takes it back. CPU offload comes after it, and the model then runs without CUDA graphs. "
        "These do not go with mode `gather`, whose weights have no fixed address.",
        (
            f"{_VERB}: test_after_the_first_run_nothing_is_compiled_and_nothing_runs_without",
            f"{_VERB}: test_more_stages_than_torch_keeps_graphs_by_default",
            f"{_VERB}: test_offload_comes_after_and_is_taken_back_before",
            f"{_VERB}: test_inductor_gives_what_plain_torch_gives",
            f"{_CUDA}: test_graphs_give_the_bits_of_plain_calls",
            f"{_CUDA}: test_graphs_and_gathered_weights_are_refused",
            f"{_CUDA}: test_an_offloaded_model_runs_without_graphs",
        ),
    ),
    Row(
        "`torch.compile`, whole denoiser",
        "works through its forward",
        "By hand, without `compile_`: `pipe.transformer.forward = torch.compile(pipe.transformer.forward)`, before or "
        "after routing: one graph per "
        "stage (stages of equal levels share one), none in later runs. `torch.compile(pipe.transformer)` and "
        "`pipe.transformer.compile()` are refused: torch does not look for hooks that come later.",
        (
            f"{_COMPILED}: test_a_compiled_forward_has_one_graph_per_stage",
            f"{_COMPILED}: test_stages_of_the_same_levels_share_a_graph",
            f"{_COMPILED}: test_a_model_compiled_as_a_whole_is_refused",
        ),
    ),
    Row(
        "`torch.compile`, block by block",
        "works",
        "`pipe.unet.compile_repeated_blocks()` on the routed model: one graph per set of shapes of a block.",
        (f"{_COMPILED}: test_blocks_compiled_one_by_one_have_one_graph_per_shape",),
    ),
    Row(
        "More stages than torch keeps graphs",
        "refused",
        "Torch keeps 8 and would run the other stages without compiling them, unnoticed. Set "
        "`torch._dynamo.config.recompile_limit` to what the error says.",
        (f"{_COMPILED}: test_more_stages_than_graphs_are_an_error_and_not_a_slow_run",),
    ),
    Row(
        "First Block Cache",
        "works; refused where blocks are dropped",
        "`pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=…))` for models that diffusers lets have it "
        "(FLUX, Qwen-Image, Wan), before or after routing. Residuals end with their stage: its first call is computed "
        "in full. `evaluation.first_block_cache` of the [recipe](recipe.md#evaluation) measures a run with it.",
        (
            f"{_MEASURED}: test_first_block_cache_costs_what_it_computes",
            f"{_CACHES}: test_each_stage_begins_with_a_call_in_full",
            f"{_CACHES}: test_at_threshold_0_first_block_cache_changes_nothing",
            f"{_CACHES}: test_first_block_cache_on_dropped_blocks_is_refused",
        ),
    ),
    Row(
        "Other caches of diffusers",
        "refused",
        "Pyramid Attention Broadcast, FasterCache, TaylorSeer, MagCache, SeaCache and the text cache count steps from "
        "the start of the run, so they cannot begin anew at a stage border, and without that they carry features of "
        "one stage's weights into another's. Use First Block Cache.",
        (
            f"{_CACHES}: test_caches_that_count_steps_are_refused",
            f"{_CACHES}: test_a_cache_put_on_a_unet_by_hand_is_refused",
            f"{_CACHES}: test_a_cache_put_on_a_routed_model_by_hand_is_refused",
        ),
    ),
    Row(
        "DeepCache on U-Nets",
        "works",
        "`pip install 'diff-es[deepcache]'`; enable its helper before or after routing, and copy pipelines before. "
        "Which steps are computed in full depends on their number alone, so a step may take the deep features of the "
        "stage before: choose an interval that divides the steps of a stage, else the deep layers of some stages "
        "never run. `evaluation.deep_cache` of the [recipe](recipe.md#evaluation) measures a run with it.",
        (
            f"{_MEASURED}: test_deep_cache_costs_what_its_outermost_branch_computes",
            f"{_DEEP}: test_both_orders_give_the_same",
            f"{_DEEP}: test_deep_features_come_from_the_stage_of_the_last_full_step",
        ),
    ),
    Row(
        "Caches while calibrating or searching",
        "refused",
        "Statistics would miss what is left out, and replay what the cache remembers. Disable the cache, and enable it "
        "on the routed model.",
        (
            f"{_CACHES}: test_measurements_need_the_model_without_a_cache",
            f"{_DEEP}: test_measurements_need_the_model_without_it",
        ),
    ),
    Row(
        "Compiled models while searching",
        "refused",
        "Every schedule has shapes of its own to be compiled for. Search with the plain model, and compile the routed "
        "one.",
        (f"{_COMPILED}: test_a_search_runs_the_plain_model",),
    ),
    Row(
        "LoRA",
        "works once fused; else refused",
        "Layers that LoRA wraps are not the linears that are pruned: `pipe.fuse_lora()` and "
        "`pipe.unload_lora_weights()` before anything else. On a routed model LoRA weights have the wrong shapes.",
        (
            f"{_LORA}: test_fused_and_unloaded_it_is_a_model_like_any_other",
            f"{_LORA}: test_wrapped_linears_are_refused_fused_or_not",
            f"{_LORA}: test_loaded_into_a_routed_model_it_is_refused_and_can_be_taken_back",
        ),
    ),
    Row(
        "Fused QKV projections",
        "refused",
        "They are copies of the weights that routing changes. Call `unfuse_qkv_projections()`.",
        (
            "denoisers/test_plain_denoisers.py: test_fused_projections_are_refused",
            "routing/test_state.py: test_what_changes_attention_after_routing_is_refused_too",
        ),
    ),
    Row(
        "IP-Adapter",
        "refused",
        "Its keys and values have all heads, whatever is pruned. Call `pipe.unload_ip_adapter()`.",
        (
            "families/test_refusals.py: test_ip_adapters_are_refused",
            "routing/test_state.py: test_what_changes_attention_after_routing_is_refused_too",
        ),
    ),
    Row(
        "Quantised linears",
        "refused",
        "Rows and columns of packed weights cannot be cut out. Load the model in half precision instead.",
        ("denoisers/test_plain_denoisers.py: test_quantised_weights_are_refused",),
    ),
)

_HEAD = """# Together with other accelerators

What a routed model goes together with, and what it refuses. Every row names the tests that show it; a refusal is an
`UnsupportedModelError` that says what to do instead. How much each one gains depends on model, sampler and device;
[below](#what-they-gain) is what they gain on the shipped models.

<!-- This page is generated by docs/make_accelerators.py; edit that. -->

"""
_GAINS = """
## What they gain

Whole pipeline calls of {batch} images on the shipped models, half of every layer's heads and channels removed in every
stage, all settings in one alternation. *Alone*: on the dense model. *On the routed model*: what it adds there. *Routed
over dense*: what pruning gains when both have it. *Together*: pruning and accelerator over the dense model without
either. Medians; a tiny model on a CPU spends much of its time between the matrix products, so that nothing here tells
what a large model on a GPU gains. Images are another matter: `diff-es reproduce table7` compares them. Under First
Block Cache the dense model may leave out three calls of four, the routed one two, as each stage begins in full: there
pruning can cost time. Offload, which needs a device of its own, has not been timed.

"""
_ORDER = """
## The order of steps

1. Load the pipeline in the dtype that it will run in; load LoRA weights, fuse and unload them.
2. Choose the sampler: `sampler.scheduler` in the recipe.
3. Calibrate, build the bank and search (`diff-es run`), without caches and without compiling.
4. `load` the artefact into the pipeline: from here on the model is routed.
5. Move it to its device, or `enable_group_offload(…)`.
6. `compile_(pipe)`; or, where a cache is to come, compile the forward or the blocks yourself, with
   `torch._dynamo.config.recompile_limit` at the number of stages or more.
7. `enable_model_cpu_offload()`; First Block Cache or DeepCache.

Steps 5 to 7 may come before step 4 as well, where the table does not say otherwise. `remove_(pipe)` undoes step 4
alone.

## Samplers

With these schedulers of diffusers it is shown, on a tiny random pipeline of each family, that the stages are those of
the steps that the pipeline takes, and that the search's replay changes no bit.

"""


def page() -> str:
    """Return the whole page."""
    rows = ["| accelerator | | how, or why not | shown by |", "|---|---|---|---|", *map(_line, ROWS)]
    samplers = ["| family | guidance | samplers |", "|---|---|---|", *_families()]
    compiled = ", ".join(dict.fromkeys(own.family for own in COMPILED))
    gains = _GAINS.format(batch=_measured()["batch_size"]) + "\n".join(_gains(_measured())) + "\n"
    tail = [
        "",
        f"Graphs of a compiled forward are counted in pipelines of {compiled}; that of every family is compiled in the "
        "contract suite, see [models](models.md).",
        "",
    ]
    return "\n".join([_HEAD + rows[0], *rows[1:], gains + _ORDER + samplers[0], *samplers[1:], *tail])


def _measured() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RESULT.read_text())
    return record


def _gains(record: dict[str, Any]) -> Iterator[str]:
    yield "| model | accelerator | alone | on the routed model | routed over dense | together | MACs: dense, routed |"
    yield "|---|---|---|---|---|---|---|"
    for model in record["models"]:
        what = f"{model['model']}, {model['steps']} steps, {model['stages']} stages"
        whole = model["rows"][0]["macs_dense"]
        for row in model["rows"]:
            keys = ("gain_on_dense", "gain_on_routed", "routed_over_dense", "together")
            macs = [row["macs_dense"], row["macs_routed"]]
            left = "not counted" if None in macs else ", ".join(f"{own / whole:.0%}" for own in macs)
            yield f"| {what} | {row['name']} | {' | '.join(f'{row[key]:.2f}×' for key in keys)} | {left} |"
    environment = record["environment"]
    yield ""
    yield (
        f"`{record['command']}` · {record['date'][:10]} · {environment['device']}, {environment['threads']} threads, "
        f"torch {environment['packages']['torch']}"
    )


def _line(row: Row) -> str:
    shown = ", ".join(f"`{test.partition(': ')[2]}`" for test in row.tests)
    return f"| {row.what} | {row.verdict} | {row.how} | {shown} |"


def _families() -> Iterator[str]:
    for family in dict.fromkeys(own.family for own in PIPELINES):
        guidance = dict.fromkeys(own.guidance for own in PIPELINES if own.family == family)
        yield f"| {family} | {', '.join(guidance)} | {'; '.join(replays(family))} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
