"""Which models are accepted: plain ones only, everything else named with the way out."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTPipeline
from torch import nn

from diff_es.denoisers import denoiser_of, dense_denoiser_of, fingerprint, spec_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.routing import apply_
from diff_es.sampling import Requests, check_requests
from support import HEADS, LAYERS, tiny_bank, tiny_pipe


class LoraLinear(nn.Module):
    """A linear with a low-rank update beside it, as adapter libraries wrap it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 1, bias=False)
        self.up = nn.Linear(1, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class DiTTransformer3DModel(nn.Module):
    """A denoiser that no spec describes."""


class Int8Tensor(torch.Tensor):
    """Quantisation libraries keep nn.Linear and put a tensor of their own into it."""


@pytest.fixture
def pipe() -> DiTPipeline:
    return tiny_pipe()


def test_the_plain_model_is_accepted(pipe: DiTPipeline) -> None:
    assert dense_denoiser_of(pipe) is pipe.transformer


@pytest.mark.parametrize("activation", ["gelu-approximate", "geglu"])
def test_the_spec_describes_every_attention_and_ffn(activation: str) -> None:
    denoiser = tiny_pipe(activation).transformer
    layers = spec_of(denoiser).layers(denoiser, blocks=False)
    assert [layer.kind for layer in layers] == ["attention", "ffn"] * LAYERS
    for layer in layers:
        (family,) = layer.families
        (output,) = layer.outputs
        (columns,) = family.columns
        assert layer.num_groups * columns.size == denoiser.get_submodule(output).in_features
        for path in layer.inputs:
            owned = [span.of(torch.arange(family.count)) for span in family.rows if span.path == path]
            assert torch.cat(owned).tolist() == list(range(denoiser.get_submodule(path).out_features))
        for item in family.attributes:
            assert getattr(denoiser.get_submodule(item.module), item.name) == item.per_group * layer.num_groups
    assert layers[0].num_groups == HEADS
    assert len(layers[1].families[0].rows) == (2 if activation == "geglu" else 1)
    assert [layer.name for layer in spec_of(denoiser).layers(denoiser, blocks=True)] == [
        f"transformer_blocks.{i}" for i in range(LAYERS)
    ]


@pytest.mark.parametrize("path", ["attn1.to_k", "attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"])
def test_a_wrapped_linear_is_refused_by_name(pipe: DiTPipeline, path: str) -> None:
    parent, _, name = f"transformer_blocks.1.{path}".rpartition(".")
    module = pipe.transformer.get_submodule(parent)
    wrapped = LoraLinear(module.get_submodule(name))
    setattr(module, name, wrapped)
    with pytest.raises(UnsupportedModelError, match=rf"transformer_blocks\.1\.{path}.*LoraLinear.*fuse LoRA"):
        dense_denoiser_of(pipe)


def test_quantised_weights_are_refused(pipe: DiTPipeline) -> None:
    linear = pipe.transformer.transformer_blocks[0].ff.net[2]
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Int8Tensor))
    with pytest.raises(UnsupportedModelError, match=r"ff\.net\.2 is a Int8Tensor: prune, then quantise"):
        dense_denoiser_of(pipe)


def test_parametrised_linears_are_refused(pipe: DiTPipeline) -> None:
    torch.nn.utils.parametrizations.weight_norm(pipe.transformer.transformer_blocks[0].ff.net[2])
    with pytest.raises(UnsupportedModelError, match=r"transformer_blocks\.0\.ff\.net\.2"):
        dense_denoiser_of(pipe)


def test_fused_projections_are_refused(pipe: DiTPipeline) -> None:
    pipe.transformer.transformer_blocks[0].attn1.fuse_projections()
    with pytest.raises(UnsupportedModelError, match=r"transformer_blocks\.0\.attn1 has fused.*unfuse"):
        dense_denoiser_of(pipe)


def test_weights_on_the_meta_device_are_refused(pipe: DiTPipeline) -> None:
    pipe.transformer.transformer_blocks[1].attn1.to_v.to("meta")
    with pytest.raises(UnsupportedModelError, match=r"attn1\.to_v has no weights in memory.*enable_model_cpu_offload"):
        dense_denoiser_of(pipe)


def test_a_routed_model_is_refused(pipe: DiTPipeline) -> None:
    bank = tiny_bank(pipe, "magnitude")
    apply_(pipe, bank, bank.uniform_allocation().resolve((1, 1, 1)))
    assert denoiser_of(pipe) is pipe.transformer
    with pytest.raises(UnsupportedModelError, match=r"is routed.*remove_"):
        dense_denoiser_of(pipe)


def test_an_unknown_denoiser_is_refused(pipe: DiTPipeline) -> None:
    pipe.transformer = DiTTransformer3DModel()
    with pytest.raises(UnsupportedModelError, match=r"DiTTransformer3DModel is not supported.*DiTTransformer2DModel"):
        dense_denoiser_of(pipe)


def test_a_pipeline_without_denoiser_is_refused(pipe: DiTPipeline) -> None:
    pipe.transformer = None
    with pytest.raises(UnsupportedModelError, match="DiTPipeline has no denoiser"):
        denoiser_of(pipe)


def test_a_call_without_timestep_is_refused(pipe: DiTPipeline) -> None:
    spec = spec_of(pipe.transformer)
    assert spec.timestep(pipe.transformer, (None, torch.tensor([3.0, 3.0])), {}) == 3.0
    assert spec.timestep(pipe.transformer, (), {"timestep": 7}) == 7.0
    with pytest.raises(UnsupportedModelError, match="without 'timestep'"):
        spec.timestep(pipe.transformer, (torch.zeros(1),), {})


@pytest.mark.parametrize("label", [-1, 10, 1000])
def test_labels_out_of_range_are_refused(pipe: DiTPipeline, label: int) -> None:
    check_requests(pipe, Requests((0, 9), (0, 1)))
    with pytest.raises(InputError, match=rf"class_labels=\[{label}\].*0…9"):
        check_requests(pipe, Requests((3, label), (0, 1)))


def test_the_fingerprint_tells_weights_and_dtype_apart(pipe: DiTPipeline) -> None:
    first = fingerprint(pipe.transformer)
    assert first == fingerprint(tiny_pipe().transformer)
    assert first != fingerprint(tiny_pipe(seed=1).transformer)
    with torch.no_grad():
        pipe.transformer.proj_out_2.bias[0] += 1e-3
    assert first.sha256 != fingerprint(pipe.transformer).sha256
    half = fingerprint(tiny_pipe().transformer.half())
    assert half.dtype == "float16"
    assert "float16" in half.describe()
