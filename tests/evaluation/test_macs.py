"""Oracle: a hand count of every matrix product of a DiT."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diff_es.denoisers import count_macs
from diff_es.denoisers.macs import parameters_used


def dit_call(batch: int) -> dict[str, Tensor]:
    return {
        "hidden_states": torch.zeros(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 500),
        "class_labels": torch.zeros(batch, dtype=torch.int64),
    }


def dit_macs_by_hand(model: DiTTransformer2DModel, batch: int) -> int:
    """Count the products of AdaLN-Zero, attention, FFN, patch embedding and output, from the configuration alone."""
    config = model.config
    width = config.num_attention_heads * config.attention_head_dim
    tokens = (config.sample_size // config.patch_size) ** 2
    patch = config.patch_size**2
    embedding = 256 * width + width * width
    adaptive_norm = embedding + width * 6 * width
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width
    feed_forward = 2 * tokens * width * 4 * width
    ends = tokens * patch * 4 * width + embedding + width * 2 * width + tokens * width * patch * config.out_channels
    return batch * (config.num_layers * (adaptive_norm + attention + feed_forward) + ends)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dit_call_equals_the_hand_count(tiny_dit: DiTTransformer2DModel, batch: int) -> None:
    assert count_macs(tiny_dit, dit_call(batch)) == dit_macs_by_hand(tiny_dit, batch)


def test_every_attention_kernel_counts_the_same(tiny_dit: DiTTransformer2DModel) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        explicit = count_macs(tiny_dit, dit_call(2))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = count_macs(tiny_dit, dit_call(2))
    assert explicit == fused == dit_macs_by_hand(tiny_dit, 2)


def test_cross_attention_counts_queries_times_keys() -> None:
    class Attention(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(query, key, value)

    call = {"query": torch.rand(2, 3, 5, 8), "key": torch.rand(2, 3, 7, 8), "value": torch.rand(2, 3, 7, 8)}
    assert count_macs(Attention(), call) == 2 * 3 * (5 * 7 * 8 + 5 * 7 * 8)


def test_linear_and_convolution_have_closed_forms() -> None:
    assert count_macs(nn.Linear(6, 10), {"input": torch.zeros(4, 7, 6)}) == 4 * 7 * 6 * 10
    convolution = nn.Conv2d(4, 8, 3, padding=1)
    assert count_macs(convolution, {"input": torch.zeros(2, 4, 5, 5)}) == 2 * 25 * 8 * 4 * 9


def test_a_model_without_weights_counts_the_same(tiny_dit: DiTTransformer2DModel) -> None:
    with torch.device("meta"):
        empty = DiTTransformer2DModel.from_config(tiny_dit.config).eval()
        call = dit_call(2)
    assert {tensor.device.type for tensor in (*empty.parameters(), *call.values())} == {"meta"}
    assert count_macs(empty, call) == dit_macs_by_hand(tiny_dit, 2)


def test_dit_xl_takes_the_papers_macs_without_guidance() -> None:
    """Table 1 says 2.37 T for 20 steps; one row per step gives it, in MACs (two rows, or FLOPs, would be twice it)."""
    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            sample_size=32,
            patch_size=2,
            num_embeds_ada_norm=1000,
        ).eval()
        numbers = torch.zeros(2, dtype=torch.int64)
        guided = {"hidden_states": torch.zeros(2, 4, 32, 32), "timestep": numbers, "class_labels": numbers}
    one_row = {name: value[:1] for name, value in guided.items()}
    assert count_macs(model, one_row) == dit_macs_by_hand(model, 1)
    assert 20 * count_macs(model, one_row) == pytest.approx(2.37e12, rel=0.01)
    assert count_macs(model, guided) == 2 * count_macs(model, one_row)


def test_a_dense_call_uses_every_parameter(tiny_dit: DiTTransformer2DModel) -> None:
    used = parameters_used(tiny_dit, dit_call(1))
    assert {id(parameter) for parameter in used} == {id(parameter) for parameter in tiny_dit.parameters()}
    assert len(used) == len(list(tiny_dit.parameters()))


def test_only_parameters_in_an_operation_are_used() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.stacked = nn.Linear(3, 3), nn.Linear(3, 3), nn.Parameter(torch.ones(1, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.used(x).to(self.idle.weight.dtype), self.stacked]) * self.idle.weight.shape[0]

    model = Partly()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    used = parameters_used(model, {"x": torch.ones(1, 3)})
    assert sorted(names[id(parameter)] for parameter in used) == ["stacked", "used.bias", "used.weight"]
