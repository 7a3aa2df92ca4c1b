"""DiTTransformer2DModel (Peebles & Xie, 2023): class-conditional latents, AdaLN-Zero blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers.absent import attention_without_heads, identity_block
from diff_es.denoisers.spec import Conditions, DenoiserSpec, GroupAttribute, Layer, plain_linear
from diff_es.errors import InputError
from diff_es.sampling import class_labels

if TYPE_CHECKING:
    from torch import Tensor, nn

#: DiTPipeline hard-codes the class that stands for "no class".
NULL_CLASS = 1000


def _width_layers(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Self-attention and FFN of every block."""
    paths = [f"transformer_blocks.{i}" for i in range(len(denoiser.transformer_blocks))]  # type: ignore[arg-type]
    return tuple(layer for path in paths for layer in (_attention(denoiser, path), _ffn(denoiser, path)))


def _attention(denoiser: nn.Module, block: str) -> Layer:
    name = f"{block}.attn1"
    attention: Any = denoiser.get_submodule(name)
    head_dim = plain_linear(denoiser, f"{name}.to_q").out_features // attention.heads
    per_group = {"heads": 1, "inner_dim": head_dim, "inner_kv_dim": head_dim, "sliceable_head_dim": 1}
    return Layer(
        name=name,
        kind="attention",
        num_groups=attention.heads,
        group_size=head_dim,
        inputs=(f"{name}.to_q", f"{name}.to_k", f"{name}.to_v"),
        output=f"{name}.to_out.0",
        attributes=tuple(GroupAttribute(name, attribute, value) for attribute, value in per_group.items()),
        absent=attention_without_heads,
    )


def _ffn(denoiser: nn.Module, block: str) -> Layer:
    name = f"{block}.ff"
    channels = plain_linear(denoiser, f"{name}.net.2").in_features
    return Layer(
        name=name,
        kind="ffn",
        num_groups=channels,
        inputs=(f"{name}.net.0.proj",),
        output=f"{name}.net.2",
        halves=plain_linear(denoiser, f"{name}.net.0.proj").out_features // channels,
    )


def _blocks(denoiser: nn.Module) -> tuple[Layer, ...]:
    """Every block may be skipped; block 0 stays in place, because the final layer uses its embedder."""
    count = len(denoiser.transformer_blocks)  # type: ignore[arg-type]
    return tuple(Layer(f"transformer_blocks.{i}", "block", 1, absent=identity_block) for i in range(count))


def _call(latents: Tensor, timesteps: Tensor, conditions: Conditions) -> dict[str, Any]:
    return {"hidden_states": latents, "timestep": timesteps, "class_labels": conditions["class_labels"]}


def _unconditional(conditions: Conditions) -> Conditions:
    return {"class_labels": torch.full_like(conditions["class_labels"], NULL_CLASS)}


def _conditions(pipe: Any, labels: Sequence[int] | Tensor) -> Conditions:
    """Check class labels against the classes that the pipeline names, or else against the embedding table.

    Raises:
        InputError: a label is out of range.
    """
    tensor = torch.as_tensor(labels, dtype=torch.int64)
    known = class_labels(pipe)
    strangers = sorted({label for label in tensor.tolist() if label not in known})
    if strangers:
        raise InputError(f"class_labels={strangers} are out of range: the model knows 0…{known[-1]}.")
    return {"class_labels": tensor}


SPEC = DenoiserSpec(
    architecture="DiTTransformer2DModel",
    width_layers=_width_layers,
    blocks=_blocks,
    timestep_argument="timestep",
    timestep_position=1,
    train_units=float,
    call=_call,
    unconditional=_unconditional,
    conditions=_conditions,
    left_alone=(
        ("norm1", "AdaLN and the timestep and class embedders act on the full width of the residual stream"),
        ("pos_embed", "patch embedding: its output is the residual stream"),
        ("proj_out", "output layers: they read the residual stream"),
    ),
)
