"""The MACs of a routed model fall by exactly what the products of the removed groups cost, computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from diff_es.bank import ThinLayer
from diff_es.denoisers import Call, Layer, count_macs, macs_by_module
from diff_es.routing import routed
from diff_es.schedule import PruningSchedule
from families.contract import contract
from families.family import Family, output
from families.oracles import columns_left, kept_of, rows_left
from families.prepared import STAGES, bank_of, call_in, denoiser_in, layers_of, level, mixed

#: Samples in every call of the suite.
SAMPLES = 2


def tokens_of(model: Any, call: Call) -> dict[str, int]:
    """How many vectors every linear or convolution transforms in one call, over all samples."""
    seen: dict[str, int] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            axis = 1 if isinstance(module, nn.Conv2d) else -1
            seen[path] = args[0].numel() // args[0].shape[axis]

        return hook

    handles = [
        module.register_forward_pre_hook(keep(path))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    output(model, call)
    for handle in handles:
        handle.remove()
    return seen


def saved_by(family: Family, model: Any, layer: Layer, thin: ThinLayer, tokens: dict[str, int]) -> int:
    """MACs of the products that a layer no longer makes."""
    saved = 0
    for path in layer.inputs:
        weight = model.get_submodule(path).weight
        if weight.ndim > 1:
            gone = len(weight) - len(rows_left(layer, thin, path, len(weight)))
            saved += gone * weight[0].numel() * tokens[path]
    for path in layer.outputs:
        weight = model.get_submodule(path).weight
        gone = weight.shape[1] - len(columns_left(layer, thin, path, weight.shape[1]))
        saved += gone * len(weight) * tokens[path]
    for own, kept in zip(layer.families, kept_of(layer, thin), strict=True):
        if own.kind == "head":
            saved += (own.count - len(kept)) * attention_of_one_group(family, layer, tokens)
    return saved


def attention_of_one_group(family: Family, layer: Layer, tokens: dict[str, int]) -> int:
    """MACs of Q Kᵀ and scores · V for the heads of one group, all samples."""
    width = layer.families[0].columns[0].size  # of all heads of the group
    fused = f"{layer.name}.to_qkv_mlp_proj"
    attention = layer.name if f"{layer.name}.to_q" in tokens or fused in tokens else f"{layer.name}.attn"
    queries = _sum(tokens, attention, "to_q", "add_q_proj") or tokens[fused]
    keys = _sum(tokens, attention, "to_k", "add_k_proj") or tokens[fused]
    if attention.rpartition(".")[2] in family.linear_attention:
        return 2 * (width + 1) * width * queries  # (V, 1) Kᵀ, then times Q: linear in the tokens
    return 2 * width * queries * keys // SAMPLES


def _sum(tokens: dict[str, int], attention: str, *names: str) -> int:
    return sum(tokens.get(f"{attention}.{name}", 0) for name in names)


@contract
def test_width_pruning_saves_the_products_of_the_removed_groups(family: Family) -> None:
    bank = bank_of(family, "magnitude")
    pipe = family.pipe()
    model = denoiser_in(pipe)
    layers = layers_of(model)
    dense, tokens = count_macs(model, call_in(family, 0)), tokens_of(model, call_in(family, 0))
    for schedule, stages in ((mixed(bank), STAGES), (level(bank), (0,))):
        for stage in stages:
            rows = [
                (layer, bank.thin(stage, layer, at))
                for layer, at in zip(layers, schedule.layer_levels[stage], strict=True)
                if at
            ]
            expected = sum(saved_by(family, model, layer, thin, tokens) for layer, thin in rows)
            with routed(pipe, bank, schedule):
                assert dense - count_macs(model, call_in(family, stage)) == expected > 0


@contract
def test_dropped_blocks_save_all_their_products(family: Family) -> None:
    """The first in one stage, the last in another, all in the third."""
    bank = bank_of(family, "layerdrop")
    pipe = family.pipe()
    model = denoiser_in(pipe)
    dense, parts = count_macs(model, call_in(family, 0)), macs_by_module(model, call_in(family, 0))
    dropped = (bank.layers[:1], bank.layers[-1:], bank.layers)
    rows = tuple(tuple(bank.num_levels * (name in names) for name in bank.layers) for names in dropped)
    schedule = PruningSchedule((0,) * len(STAGES), bank.layers, rows, bank.num_levels)
    with routed(pipe, bank, schedule):
        for stage, names in zip(STAGES, dropped, strict=True):
            assert dense - count_macs(model, call_in(family, stage)) == sum(parts[name] for name in names) > 0
