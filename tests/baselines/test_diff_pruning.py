"""Diff-Pruning from calibration to images, on a tiny untrained pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.bank import Bank
from diff_es.calibration import CalibrationConfig, CalibrationStats, calibrate
from diff_es.denoisers import Layer, spec_of
from diff_es.errors import InputError
from diff_es.pruning import BankConfig, build_bank, pruners
from diff_es.routing import routed
from diff_es.sampling import sample
from support import HEADS, PLAN, REQUESTS, SAMPLER, columns_of, output_of, same_state, snapshot, tiny_pipe, tiny_source

METHOD = "diff-pruning"


@pytest.fixture(scope="module")
def pipe() -> DiTPipeline:
    return tiny_pipe("geglu")


@pytest.fixture(scope="module")
def stats(pipe: DiTPipeline) -> CalibrationStats:
    return calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, pruners[METHOD].needs))


@pytest.fixture(scope="module")
def bank(pipe: DiTPipeline, stats: CalibrationStats) -> Bank:
    return build_bank(pipe, stats, PLAN, BankConfig(METHOD, HEADS))


def layers_of(pipe: DiTPipeline) -> tuple[Layer, ...]:
    return spec_of(pipe.transformer).width_layers(pipe.transformer)


def test_groups_leave_by_the_importance_of_all_their_weights(
    pipe: DiTPipeline, stats: CalibrationStats, bank: Bank
) -> None:
    """Rows of every input linear and columns of the output projection, summed in loops; both halves of a GEGLU."""
    for layer in layers_of(pipe):
        found = stats.of(0, layer).importance
        assert found is not None
        columns, groups = found[output_of(layer)], layer.num_groups
        scores = []
        for group in range(groups):
            own = columns_of(layer, torch.tensor([group])).tolist()
            total = sum(float(columns[i]) for i in own)
            for rows in (found[path] for path in layer.inputs):
                total += sum(float(rows[half + i]) for half in range(0, len(rows), len(columns)) for i in own)
            scores.append(total)
        order = sorted(range(groups), key=lambda group: (scores[group], group))
        assert bank.shards[0][f"{layer.name}/order"].tolist() == order
        assert len(set(scores)) > groups // 2, "the test could not tell groups apart"


def test_it_is_one_model_for_all_stages(pipe: DiTPipeline, bank: Bank) -> None:
    assert pruners[METHOD].one_set
    assert bank.info.shared
    assert len(bank.shards) == 1
    for layer in layers_of(pipe):
        first, last = bank.thin(0, layer, 2), bank.thin(PLAN.num_stages - 1, layer, 2)
        assert torch.equal(first.kept, last.kept)
        assert len(first.kept) == layer.num_groups // 2, "every layer loses the same share"
        assert not first.outputs, "nothing is compensated"


def test_half_of_it_makes_images(pipe: DiTPipeline, bank: Bank) -> None:
    before = snapshot(pipe.transformer)
    dense = sample(pipe, REQUESTS, SAMPLER)
    schedule = bank.uniform_allocation().resolve(bank.space(0.5).uniform())
    with routed(pipe, bank, schedule):
        images = sample(pipe, REQUESTS, SAMPLER)
        assert pipe.transformer.transformer_blocks[0].attn1.heads == HEADS // 2
    assert bool(images.isfinite().all())
    assert not torch.equal(images, dense)
    assert same_state(pipe.transformer, before)


def test_a_bank_needs_its_own_statistic(pipe: DiTPipeline) -> None:
    other = calibrate(pipe, tiny_source(), CalibrationConfig(PLAN, ("second_moment",)))
    with pytest.raises(InputError, match=r"calibrate with collect=\('importance',\)"):
        build_bank(pipe, other, PLAN, BankConfig(METHOD, HEADS))


def test_a_killed_run_goes_on_from_its_folders(pipe: DiTPipeline, bank: Bank, tmp_path: Path) -> None:
    config = CalibrationConfig(PLAN, pruners[METHOD].needs)
    for _ in range(2):
        stats = calibrate(pipe, tiny_source(), config, tmp_path / "calibration")
        again = build_bank(pipe, stats, PLAN, BankConfig(METHOD, HEADS), tmp_path / "bank")
    opened = Bank.open(tmp_path / "bank")
    assert opened.info.method == METHOD
    for found in (again, opened):
        assert all(torch.equal(found.shards[0][name], bank.shards[0][name]) for name in bank.shards[0])
