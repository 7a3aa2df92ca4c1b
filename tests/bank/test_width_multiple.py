"""Banks whose FFN widths are rounded up to a multiple, and everything else is as before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from hypothesis import given
from hypothesis import strategies as st

from diff_es.bank import Bank
from diff_es.calibration import CalibrationStats
from diff_es.denoisers import Layer, count_macs, spec_of
from diff_es.denoisers.layers import GroupFamily
from diff_es.errors import InputError
from diff_es.pruning import BankConfig, build_bank
from diff_es.pruning.sizes import lost_to_rounding
from diff_es.routing import routed
from diff_es.run.footprint import footprint
from diff_es.schedule import groups_removed
from families.registry import FAMILIES
from support import PLAN, columns_of, output_of, tiny_pipe, tiny_stats

LEVELS = 7
MULTIPLE = 8
#: Of 64 channels, those that 7 levels keep (55, 46, 37, 27, 18, 9), rounded up by hand.
KEPT = (64, 56, 48, 40, 32, 24, 16, 0)


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    pipe = tiny_pipe("geglu")
    pipe.transformer.double()
    return pipe


@pytest.fixture(scope="module")
def stats(pipe: DiTPipeline) -> CalibrationStats:
    return tiny_stats(pipe)


def bank_of(
    pipe: DiTPipeline, stats: CalibrationStats, multiple: int, method: str = "obs", folder: Path | None = None
) -> Bank:
    return build_bank(pipe, stats, PLAN, BankConfig(method, LEVELS, width_multiple=multiple), folder)


def layers_of(pipe: DiTPipeline) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).width_layers(pipe.transformer)


@given(count=st.integers(1, 20_000), num_levels=st.integers(1, 64), multiple=st.one_of(st.just(1), st.integers(1, 512)))
def test_rounded_counts(count: int, num_levels: int, multiple: int) -> None:
    removed = GroupFamily("channel", count, multiple=multiple).removed(num_levels)
    plain = groups_removed(count, num_levels)
    assert (removed[0], removed[-1]) == (0, count)
    assert list(removed) == sorted(removed)
    for own, asked in zip(removed, plain, strict=True):
        kept = count - own
        assert kept % multiple == 0 or kept == count
        assert 0 <= asked - own < multiple, "no more is kept than the next multiple"
    assert multiple > 1 or removed == plain


@pytest.mark.parametrize("method", ["obs", "wanda", "magnitude"])
def test_widths_are_round_and_heads_are_free(pipe: DiTPipeline, stats: CalibrationStats, method: str) -> None:
    rounded, plain = (bank_of(pipe, stats, multiple, method) for multiple in (MULTIPLE, 1))
    for stage in range(PLAN.num_stages):
        for layer in layers_of(pipe):
            kept = [rounded.thin(stage, layer, level).kept for level in range(1, LEVELS + 1)]
            if layer.kind == "ffn":
                assert tuple(map(len, kept)) == KEPT[1:]
            else:
                every = [plain.thin(stage, layer, level).kept for level in range(1, LEVELS + 1)]
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, every, strict=True))
            assert all(set(after.tolist()) <= set(before.tolist()) for before, after in pairwise(kept)), "not nested"
            order = f"{layer.name}/order"
            assert torch.equal(rounded.shards[stage][order], plain.shards[stage][order])


def test_every_level_equals_the_closed_form(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    """W H[:,K] H[K,K]^-1 on the kept columns K, with H damped by 1 % of its mean diagonal."""
    bank = bank_of(pipe, stats, MULTIPLE)
    for layer in layers_of(pipe):
        path = output_of(layer)
        weight = pipe.transformer.get_submodule(path).weight.detach()
        moments = stats.of(1, layer).moments
        assert moments is not None
        hessian = moments[path].second.double()
        damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
        for level in range(1, LEVELS):
            thin = bank.thin(1, layer, level)
            kept = columns_of(layer, thin.kept)
            expected = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ weight.T).T
            torch.testing.assert_close(thin.outputs[f"{path}.weight"], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_of_every_denoiser(family: Any) -> None:
    """Channels are rounded wherever they are, also beside heads in one layer."""
    denoiser = family.model()
    layers = BankConfig("obs", LEVELS, width_multiple=MULTIPLE).layers(denoiser)
    for layer, plain in zip(layers, spec_of(denoiser).width_layers(denoiser), strict=True):
        for own, before in zip(layer.families, plain.families, strict=True):
            kept = [own.count - removed for removed in own.removed(LEVELS)]
            if own.kind == "channel":
                assert all(count % MULTIPLE == 0 or count == own.count for count in kept)
            else:
                assert own == before


def test_what_is_stored_is_what_was_predicted(pipe: DiTPipeline, stats: CalibrationStats, tmp_path: Path) -> None:
    bank = bank_of(pipe, stats, MULTIPLE, folder=tmp_path)
    layers = BankConfig("obs", LEVELS, width_multiple=MULTIPLE).layers(pipe.transformer)
    predicted = footprint(pipe.transformer, layers, method="obs", num_levels=LEVELS, stages=3).bank_bytes
    assert predicted == sum(tensor.nbytes + 100 for shard in bank.shards for tensor in shard.values())
    opened = Bank.open(tmp_path)
    assert opened.info.width_multiple == MULTIPLE
    for layer in layers_of(pipe):
        for level in range(1, LEVELS + 1):
            assert torch.equal(opened.thin(2, layer, level).kept, bank.thin(2, layer, level).kept)
    with pytest.raises(InputError, match="other settings"):
        bank_of(pipe, stats, 1, folder=tmp_path)


def test_a_routed_model_runs_and_its_macs_are_counted(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    call = {
        "hidden_states": torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        "timestep": torch.tensor([100.0]),
        "class_labels": torch.tensor([1]),
    }
    macs = []
    for multiple in (1, MULTIPLE):
        bank = bank_of(pipe, stats, multiple)
        with torch.no_grad(), routed(pipe, bank, bank.uniform_allocation().resolve((4, 4, 4))):
            assert torch.isfinite(pipe.transformer(**call).sample).all()
            macs.append(count_macs(pipe.transformer, call))
    # Level 4 keeps 27 of 64 channels, or 32: 3 matrices of GEGLU, 16 wide, on 16 tokens in two blocks.
    assert macs[1] - macs[0] == 2 * 16 * 3 * 16 * (32 - 27)


def test_a_bank_without_rounding_says_nothing_of_it(pipe: DiTPipeline, stats: CalibrationStats) -> None:
    assert set(bank_of(pipe, stats, 1).info.settings) == {"damping", "intercept", "statistics"}
    assert build_bank(pipe, stats, PLAN, BankConfig("obs", LEVELS)).info == bank_of(pipe, stats, 1).info
    assert bank_of(pipe, stats, MULTIPLE).info.settings["width_multiple"] == MULTIPLE


@pytest.mark.parametrize(("cuda", "multiple"), [(True, 8), (False, 1)])
def test_auto_depends_on_the_device(cuda: bool, multiple: int) -> None:
    def parameters() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(is_cuda=cuda)

    denoiser: Any = SimpleNamespace(parameters=parameters)
    assert BankConfig().multiple_for(denoiser) == multiple
    assert BankConfig(width_multiple=16).multiple_for(denoiser) == 16


def test_what_rounding_costs_is_known(
    pipe: DiTPipeline, stats: CalibrationStats, caplog: pytest.LogCaptureFixture
) -> None:
    layers = BankConfig("obs", LEVELS, width_multiple=MULTIPLE).layers(pipe.transformer)
    # Levels 4, 5 and 6 keep 27, 18 and 9 of 64 channels, and 32, 24 and 16 rounded: seven too many at worst.
    assert lost_to_rounding(layers, LEVELS) == 7 / 64
    assert lost_to_rounding(layers_of(pipe), LEVELS) == 0
    with caplog.at_level("INFO", "diff_es"):
        bank_of(pipe, stats, MULTIPLE)
    assert caplog.messages[0] == "Widths in multiples of 8: levels remove up to 10.9 % of the channels less."
