"""What a bank holds: nested kept sets, and weights equal to the closed form, recomputed in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DiTPipeline
from torch import Tensor

from diff_es.bank import Bank
from diff_es.bank.bank import BLOCK_ORDER
from diff_es.calibration import CalibrationConfig, CalibrationStats, calibrate
from diff_es.denoisers import Layer, spec_of
from diff_es.errors import InputError
from diff_es.pruning.build import build_bank
from diff_es.pruning.pruners import BankConfig
from diff_es.schedule import groups_removed
from support import (
    HEADS,
    LAYERS,
    METHODS,
    PLAN,
    columns_of,
    is_depth,
    output_of,
    tiny_bank,
    tiny_pipe,
    tiny_source,
    tiny_stats,
)

WIDTH_METHODS = METHODS[:-1]


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    """In float64, so that the bank stores float64."""
    pipe = tiny_pipe("geglu")
    pipe.transformer.double()
    return pipe


@pytest.fixture(scope="module")
def stats(pipe: DiTPipeline) -> CalibrationStats:
    return tiny_stats(pipe)


def layers_of(pipe: DiTPipeline, *, blocks: bool = False) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).layers(pipe.transformer, blocks=blocks)


def least_squares(weight: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    """The weight on the kept columns that is nearest to W x in the mean, damped by 1 % of the mean diagonal."""
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    return torch.linalg.solve(damped[kept][:, kept], damped[kept] @ weight.T).T


@pytest.mark.parametrize("num_levels", [HEADS, 7])
@pytest.mark.parametrize("method", ["obs", "obs+intercept"])
def test_every_level_equals_the_closed_form(
    pipe: DiTPipeline, stats: CalibrationStats, method: str, num_levels: int
) -> None:
    bank = tiny_bank(pipe, method, num_levels, stats=stats)
    for stage in range(PLAN.num_stages):
        for layer in layers_of(pipe):
            path = output_of(layer)
            output = pipe.transformer.get_submodule(path)
            weight, bias = output.weight.detach(), output.bias.detach()
            moments = stats.of(stage, layer).moments
            assert moments is not None
            hessian, mean = moments[path].second.double(), moments[path].mean.double()
            if method == "obs+intercept":
                hessian = hessian - torch.outer(mean, mean)
            for level in range(1, num_levels + 1):
                thin = bank.thin(stage, layer, level)
                kept = columns_of(layer, thin.kept)
                solved = thin.outputs[f"{path}.weight"]
                assert solved.dtype == torch.float64
                expected = least_squares(weight, hessian, kept)
                assert (solved - expected).norm() <= 1e-6 * weight.norm(), (stage, layer.name, level)
                if method == "obs":
                    assert f"{path}.bias" not in thin.outputs
                else:
                    shift = weight @ mean - expected @ mean[kept]
                    torch.testing.assert_close(thin.outputs[f"{path}.bias"], bias + shift, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("num_levels", [1, HEADS, 7, 16])
@pytest.mark.parametrize("method", WIDTH_METHODS)
def test_kept_sets_are_nested(pipe: DiTPipeline, stats: CalibrationStats, method: str, num_levels: int) -> None:
    bank = tiny_bank(pipe, method, num_levels, stats=stats)
    for stage in range(PLAN.num_stages):
        for layer in layers_of(pipe):
            kept = [set(range(layer.num_groups))]
            for level in range(1, num_levels + 1):
                thin = bank.thin(stage, layer, level)
                assert thin.kept.tolist() == sorted(set(thin.kept.tolist()))
                kept.append(set(thin.kept.tolist()))
                for name, tensor in thin.outputs.items():
                    assert name.endswith("bias") or tensor.shape[1] == len(columns_of(layer, thin.kept))
            assert all(later <= earlier for earlier, later in pairwise(kept))
            assert [layer.num_groups - len(groups) for groups in kept] == list(
                groups_removed(layer.num_groups, num_levels)
            )
            assert kept[-1] == set()


@pytest.mark.parametrize("method", METHODS)
def test_level_0_holds_nothing(pipe: DiTPipeline, stats: CalibrationStats, method: str) -> None:
    bank = tiny_bank(pipe, method, stats=stats)
    assert not any("level-000" in name for shard in bank.shards for name in shard)
    layer = layers_of(pipe, blocks=bank.depth)[0]
    for level in (0, HEADS + 1, -1):
        with pytest.raises(InputError, match=rf"level={level} must lie in 1…4"):
            bank.thin(0, layer, level)


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_scores_of_the_rows_decide(pipe: DiTPipeline, stats: CalibrationStats, method: str) -> None:
    """Eq. 6-8 written out as loops."""
    bank = tiny_bank(pipe, method, stats=stats)
    for stage in range(PLAN.num_stages):
        for layer in layers_of(pipe):
            norms = stats.of(stage, layer).input_norms
            assert norms is not None
            scores = []
            for group in range(layer.num_groups):
                rows = columns_of(layer, torch.tensor([group]))
                width = pipe.transformer.get_submodule(output_of(layer)).in_features
                total = 0.0
                for path in layer.inputs:
                    whole = pipe.transformer.get_submodule(path).weight.detach()
                    weight = whole[torch.cat([rows + half for half in range(0, len(whole), width)])].abs()
                    total += float((weight * (norms[path].double() if method == "wanda" else 1.0)).sum())
                scores.append(total)
            order = torch.tensor(scores, dtype=torch.float64).argsort()
            removed = layer.num_groups - len(bank.thin(stage, layer, 2).kept)
            assert set(range(layer.num_groups)) - set(bank.thin(stage, layer, 2).kept.tolist()) == set(
                order[:removed].tolist()
            )


def test_blocks_leave_by_similarity(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    bank = tiny_bank(pipe, "layerdrop", stats=stats)
    table = bank.uniform_allocation().table
    for stage in range(PLAN.num_stages):
        similarity = [stats.of(stage, layer).similarity for layer in layers_of(pipe, blocks=True)]
        order = bank.shards[stage][BLOCK_ORDER].tolist()
        assert order == sorted(range(LAYERS), key=lambda block: -similarity[block])
        # Two blocks, four levels: a block is worth two levels, halves are rounded up.
        first = tuple(HEADS if block == order[0] else 0 for block in range(LAYERS))
        assert table[stage] == ((0, 0), first, first, (HEADS, HEADS), (HEADS, HEADS))
    assert all(len(bank.thin(0, layer, HEADS).kept) == 0 for layer in layers_of(pipe, blocks=True))


@pytest.mark.parametrize("method", METHODS)
def test_shared_calibration_makes_one_set_for_all_stages(pipe: DiTPipeline, method: str) -> None:
    bank = tiny_bank(pipe, method, stats=tiny_stats(pipe, shared=True))
    assert bank.info.shared
    assert len(bank.shards) == 1
    for layer in layers_of(pipe, blocks=bank.depth):
        first, last = bank.thin(0, layer, 2), bank.thin(2, layer, 2)
        assert torch.equal(first.kept, last.kept)
        assert (not first.outputs) == (method in ("wanda", "magnitude", "layerdrop"))
        assert all(torch.equal(tensor, last.outputs[name]) for name, tensor in first.outputs.items())
    assert len(bank.uniform_allocation().table) == PLAN.num_stages


@pytest.mark.parametrize("method", ["obs", "wanda", "layerdrop"])
def test_missing_statistics_are_named(pipe: DiTPipeline, method: str) -> None:
    wanted = {"obs": "second_moment", "wanda": "input_norms", "layerdrop": "similarity"}[method]
    stats = calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ()))
    with pytest.raises(InputError, match=rf"collect=\('{wanted}',\)"):
        tiny_bank(pipe, method, stats=stats)
    assert tiny_bank(pipe, "magnitude", stats=stats).info.method == "magnitude"


def test_unusable_settings_are_refused(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    with pytest.raises(InputError, match=r"Unknown pruner 'ob'.*did you mean 'obs'"):
        BankConfig("ob")
    with pytest.raises(InputError, match="num_levels=0"):
        BankConfig(num_levels=0)
    for damping in (0.0, -1.0, 2.0, float("nan")):
        with pytest.raises(InputError, match="damping="):
            BankConfig(damping=damping)
    other = calibrate(pipe, tiny_source(), CalibrationConfig(type(PLAN).split(PLAN.timesteps, 2)))
    with pytest.raises(InputError, match="statistics have 2 stages, the plan 3"):
        build_bank(pipe, other, PLAN, BankConfig())


@pytest.mark.parametrize("method", METHODS)
def test_the_space_has_the_banks_stages_and_levels(pipe: DiTPipeline, stats: CalibrationStats, method: str) -> None:
    bank: Bank = tiny_bank(pipe, method, stats=stats)
    space = bank.space(0.5)
    assert space.calls == (2, 2, 2)
    assert space.uniform() == (2, 2, 2)
    assert bank.space(0.5, (4, 2, 0)).project([4, 2, 0]) == (4, 2, 0)
    assert bank.depth == is_depth(method)
