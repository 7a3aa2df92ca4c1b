"""What the pruners make of a layer of any family, against closed forms and plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diff_es.denoisers import Layer
from diff_es.schedule import groups_removed
from families.contract import contract
from families.family import Family, output
from families.oracles import columns_left, owned
from families.prepared import LEVELS, STAGES, Calls, bank_of, layers_of, stats_of
from support import PLAN

#: Of `BankConfig`.
DAMPING = 0.01


def inputs_of(family: Family, stage: int) -> dict[str, Tensor]:
    """All inputs of every linear of a layer over the calls of a stage, (rows, columns), float64."""
    model = family.model()
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].permute(0, 2, 3, 1) if isinstance(module, nn.Conv2d) else args[0]
            seen.setdefault(path, []).append(x.reshape(-1, x.shape[-1]).double())

        return hook

    for path in {path for layer in layers_of(model) for path in (*layer.scored, *layer.outputs)}:
        model.get_submodule(path).register_forward_pre_hook(keep(path))
    for call in Calls(family).calls(None, PLAN, stage):
        output(model, call)
    return {path: torch.cat(parts) for path, parts in seen.items()}


@contract
def test_moments_and_norms_equal_those_of_the_captured_inputs(family: Family) -> None:
    inputs = inputs_of(family, 1)
    for layer in layers_of(family.model()):
        found = stats_of(family).of(1, layer)
        assert found.moments is not None and tuple(found.moments) == layer.outputs
        assert found.input_norms is not None and tuple(found.input_norms) == layer.scored
        for path, moments in found.moments.items():
            x = inputs[path]
            assert moments.rows == len(x)
            torch.testing.assert_close(moments.second.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(moments.mean.double(), x.mean(dim=0), rtol=1e-5, atol=1e-6)
        for path, norms in found.input_norms.items():
            torch.testing.assert_close(norms.double(), inputs[path].norm(dim=0), rtol=1e-5, atol=0)


@contract
def test_obs_weights_are_the_least_squares_solution(family: Family) -> None:
    """W H[:, K] H[K, K]⁻¹ of every output projection, at every level, in every stage."""
    model = family.model()
    bank = bank_of(family, "obs")
    for stage in STAGES:
        for layer in layers_of(model):
            moments = stats_of(family).of(stage, layer).moments
            assert moments is not None
            for level in range(1, LEVELS):
                thin = bank.thin(stage, layer, level)
                for path in layer.outputs:
                    weight = model.get_parameter(f"{path}.weight")
                    keep = columns_left(layer, thin, path, weight.shape[1])
                    expected = least_squares(weight.flatten(1).double(), moments[path].second.double(), keep)
                    assert f"{path}.bias" not in thin.outputs
                    found = thin.outputs.get(f"{path}.weight")
                    if found is not None:  # a level too low to remove a group
                        assert found.shape == (weight.shape[0], len(keep), *weight.shape[2:])
                        torch.testing.assert_close(found.flatten(1).double(), expected, rtol=1e-4, atol=1e-5)
                    else:
                        assert len(keep) == weight.shape[1]


def least_squares(weight: Tensor, hessian: Tensor, keep: list[int]) -> Tensor:
    live = hessian.diagonal() != 0
    damped = hessian + DAMPING * hessian.diagonal()[live].mean() * torch.eye(len(hessian), dtype=torch.float64)
    cross, own = damped[:, keep], damped[keep][:, keep]
    return torch.linalg.solve(own, (weight @ cross).T).T


@contract
def test_obs_moves_the_mean_into_the_bias(family: Family) -> None:
    """With an intercept: the same on the covariance and a bias that keeps the mean output, where there is a bias."""
    model = family.model()
    bank = bank_of(family, "obs+intercept")
    for layer in layers_of(model):
        moments = stats_of(family).of(0, layer).moments
        assert moments is not None
        thin = bank.thin(0, layer, 4)
        for path in layer.outputs:
            weight = model.get_parameter(f"{path}.weight").flatten(1).double()
            mean = moments[path].mean.double()
            keep = columns_left(layer, thin, path, weight.shape[1])
            bias = model.get_submodule(path).bias
            assert (f"{path}.bias" in thin.outputs) == (bias is not None)
            few = thin.outputs[f"{path}.weight"].flatten(1).double()
            second = moments[path].second.double()
            hessian = second if bias is None else second - torch.outer(mean, mean)
            torch.testing.assert_close(few, least_squares(weight, hessian, keep), rtol=1e-3, atol=1e-4)
            if bias is not None:
                moved = bias.double() + weight @ mean - few @ mean[keep]
                torch.testing.assert_close(thin.outputs[f"{path}.bias"].double(), moved, rtol=1e-4, atol=1e-5)


@contract
def test_obs_removes_first_what_costs_least(family: Family) -> None:
    """The first head that leaves, found by trying each: the loss summed over all outputs."""
    model = family.model()
    bank = bank_of(family, "obs")
    for layer in layers_of(model):
        moments = stats_of(family).of(1, layer).moments
        assert moments is not None
        order = bank.shards[1][f"{layer.name}/order"].tolist()
        own = layer.families[0]
        if own.kind != "head":
            continue
        losses = []
        for group in range(own.count):
            total = 0.0
            for path in layer.outputs:
                weight = model.get_parameter(f"{path}.weight").flatten(1).double()
                gone = set(owned(own.columns, path, [group]))
                keep = [column for column in range(weight.shape[1]) if column not in gone]
                total += moments[path].rows * loss(weight, moments[path].second.double(), keep)
            losses.append(total)
        assert losses[order[0]] == pytest.approx(min(losses), rel=1e-6), layer.name


def loss(weight: Tensor, hessian: Tensor, keep: list[int]) -> float:
    """‖W X - Ŵ X‖² of the best Ŵ on the kept columns, with the damped Hessian."""
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    best = torch.zeros_like(weight)
    best[:, keep] = least_squares(weight, hessian, keep)
    difference = weight - best
    return float(torch.trace(difference @ damped @ difference.T))


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_the_loop_ranks_heads_over_all_their_rows(method: str) -> None:
    """The loop itself, on numbers small enough to follow: two heads of two rows in two matrices."""
    weights = {
        "q": torch.tensor([[1.0, 0], [1, 0], [0, 3], [0, 3]]),
        "k": torch.tensor([[5.0, 0], [5, 0], [0, 1], [0, 1]]),
    }
    norms = {"q": torch.tensor([1.0, 1.0]), "k": torch.tensor([1.0, 10.0])}
    rows = {"q": [[0, 1], [2, 3]], "k": [[0, 1], [2, 3]]}
    given = norms if method == "wanda" else {path: torch.ones(2) for path in norms}
    assert head_scores(weights, given, rows) == ([3.0, 6.5] if method == "wanda" else [3.0, 2.0])


def head_scores(weights: dict[str, Tensor], norms: dict[str, Tensor], rows: dict[str, list[list[int]]]) -> list[float]:
    """Mean over a head's rows in all matrices of Σ_j |W_ij| ‖X_j‖."""
    scores = []
    for head in range(len(next(iter(rows.values())))):
        sums = [
            sum(abs(float(w)) * float(n) for w, n in zip(weights[path][row], norms[path], strict=True))
            for path in rows
            for row in rows[path][head]
        ]
        scores.append(sum(sums) / len(sums))
    return scores


def channel_scores(
    weights: dict[str, Tensor], norms: dict[str, Tensor], rows: dict[str, list[list[int]]]
) -> list[float]:
    """Mean over a channel's rows of the mean over j of |W_ij| ‖X_j‖."""
    count = len(next(iter(rows.values())))
    totals, used = torch.zeros(count, dtype=torch.float64), 0
    for path, own in rows.items():
        each = (weights[path].double().abs() * norms[path].double()).mean(dim=1)
        for number in range(len(own[0])):
            totals += each[[channel[number] for channel in own]]
            used += 1
    return (totals / used).tolist()


def naive_order(layer: Layer, model: Any, norms: dict[str, Tensor] | None) -> list[int]:
    """All groups, level by level, each family by its own scores."""
    orders, first = [], 0
    for own in layer.families:
        paths = list(dict.fromkeys(span.path for span in own.rows if span.scored))
        weights = {path: model.get_parameter(f"{path}.weight").flatten(1) for path in paths}
        known = {path: torch.ones(weights[path].shape[1]) if norms is None else norms[path] for path in paths}
        rows = {path: [owned(own.rows, path, [group]) for group in range(own.count)] for path in paths}
        scores = (head_scores if own.kind == "head" else channel_scores)(weights, known, rows)
        orders.append([first + group for group in sorted(range(own.count), key=lambda group: scores[group])])
        first += own.count
    result: list[int] = []
    for level in range(1, LEVELS + 1):
        for order in orders:
            counts = groups_removed(len(order), LEVELS)
            result += order[counts[level - 1] : counts[level]]
    return result


@contract
def test_wanda_orders_equal_a_plain_loop(family: Family) -> None:
    model = family.model()
    bank = bank_of(family, "wanda")
    for layer in layers_of(model):
        norms = stats_of(family).of(2, layer).input_norms
        assert norms is not None
        assert bank.shards[2][f"{layer.name}/order"].tolist() == naive_order(layer, model, norms)


@contract
def test_magnitude_orders_equal_a_plain_loop(family: Family) -> None:
    model = family.model()
    bank = bank_of(family, "magnitude")
    for layer in layers_of(model):
        assert bank.shards[0][f"{layer.name}/order"].tolist() == naive_order(layer, model, None)


@contract
def test_layerdrop_orders_follow_the_mean_cosine_similarity(family: Family) -> None:
    model = family.model()
    blocks = layers_of(model, blocks=True)
    seen: dict[str, list[float]] = {layer.name: [] for layer in blocks}
    for layer in blocks:
        block = model.get_submodule(layer.name)
        block.register_forward_hook(_similarity(family.returned(layer.name), seen[layer.name]), with_kwargs=True)
    for call in Calls(family).calls(None, PLAN, 0):
        output(model, call)
    means = [sum(values) / len(values) for values in seen.values()]
    order = bank_of(family, "layerdrop").shards[0]["blocks/order"].tolist()
    assert order == sorted(range(len(means)), key=lambda block: -means[block])


def _similarity(names: tuple[str, ...], values: list[float]) -> Callable[..., None]:
    """One value per sample, over all tokens that the block returns."""

    def hook(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        given = dict(zip(_names(block), args, strict=False)) | kwargs
        streams = result if isinstance(result, tuple) else (result,)
        pairs = [(given[name], after) for name, after in zip(names, streams, strict=True) if after is not None]
        for sample in range(len(pairs[0][0])):
            before, after = (torch.cat([pair[side][sample].flatten() for pair in pairs]).double() for side in (0, 1))
            values.append(float(F.cosine_similarity(before, after, dim=0)))

    return hook


def _names(block: Any) -> list[str]:
    code = type(block).forward.__code__
    return list(code.co_varnames[1 : code.co_argcount])
