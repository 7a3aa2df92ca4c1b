"""Offload by groups of blocks: goes with routing as long as it asks each block for its weights anew."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from diff_es.errors import UnsupportedModelError
from diff_es.routing import apply_, remove_
from pipelines.prepared import LEVELS, latents_of, layerdrop_bank, mixed, obs_bank, pipe_with, routed_latents
from pipelines.registry import PIPELINES

FLUX = next(own for own in PIPELINES if own.name == "flux")


def offloaded(pipe: Any, **settings: Any) -> None:
    """The CPU stands for the GPU."""
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}],
    ids=["blocks", "leaves"],
)
@pytest.mark.parametrize("offload_first", [True, False], ids=["offload first", "routing first"])
def test_it_changes_nothing(settings: dict[str, Any], offload_first: bool) -> None:
    pipe, bank = copy.deepcopy(pipe_with(FLUX, FLUX.samplers[0])), obs_bank(FLUX)
    if offload_first:
        offloaded(pipe, **settings)
    apply_(pipe, bank, mixed(bank))
    if not offload_first:
        offloaded(pipe, **settings)
    for _ in range(2):
        assert torch.equal(latents_of(FLUX, pipe), routed_latents(FLUX))


@pytest.mark.parametrize("offload_first", [True, False], ids=["offload first", "routing first"])
def test_a_disk_that_was_filled_once_is_refused(tmp_path: Path, offload_first: bool) -> None:
    pipe, bank = copy.deepcopy(pipe_with(FLUX, FLUX.samplers[0])), obs_bank(FLUX)
    settings = {"offload_type": "block_level", "num_blocks_per_group": 1, "offload_to_disk_path": str(tmp_path)}
    message = "offload_to_disk_path"
    if offload_first:
        offloaded(pipe, **settings)
        with pytest.raises(UnsupportedModelError, match=message):
            apply_(pipe, bank, mixed(bank))
    else:
        apply_(pipe, bank, mixed(bank))
        offloaded(pipe, **settings)
        with pytest.raises(UnsupportedModelError, match=message):
            latents_of(FLUX, pipe)


@pytest.mark.parametrize("offload_first", [True, False], ids=["offload first", "routing first"])
def test_dropped_blocks_keep_the_offload_that_they_had(offload_first: bool) -> None:
    """What is put on a block after routing would be lost when the block is no longer dropped."""
    pipe = copy.deepcopy(pipe_with(FLUX, FLUX.samplers[0]))
    bank = layerdrop_bank(FLUX)
    schedule = bank.uniform_allocation().resolve((LEVELS, 0, LEVELS))
    settings = {"offload_type": "block_level", "num_blocks_per_group": 1}
    if offload_first:
        offloaded(pipe, **settings)
        apply_(pipe, bank, schedule)
        forwards = [vars(block)["forward"] for block in pipe.transformer.transformer_blocks]
        latents_of(FLUX, pipe)
        remove_(pipe)
        assert [vars(block)["forward"] for block in pipe.transformer.transformer_blocks] == forwards
    else:
        apply_(pipe, bank, schedule)
        offloaded(pipe, **settings)
        with pytest.raises(UnsupportedModelError, match=r"remove_\(pipe\), then enable_group_offload, then route"):
            latents_of(FLUX, pipe)


def test_streams_are_refused() -> None:
    """They need a GPU: here the configuration of a real hook is given one afterwards."""
    pipe, bank = copy.deepcopy(pipe_with(FLUX, FLUX.samplers[0])), obs_bank(FLUX)
    offloaded(pipe, offload_type="block_level", num_blocks_per_group=1)
    hooks = pipe.transformer.transformer_blocks[0]._diffusers_hook.hooks
    next(hook for hook in hooks.values() if hasattr(hook, "group")).config.stream = object()
    with pytest.raises(UnsupportedModelError, match="use_stream"):
        apply_(pipe, bank, mixed(bank))
