"""Attention modules of diffusers as layers: their heads, and all that must follow the number of heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from diff_es.denoisers.absent import attention_without_heads
from diff_es.denoisers.layers import Absent, GroupAttribute, GroupFamily, Layer, Span
from diff_es.denoisers.plain import plain_module

if TYPE_CHECKING:
    from collections.abc import Callable

#: Projections that produce queries, in modules that have them; the second acts on the text of a joint attention.
_QUERIES = ("to_q", "add_q_proj")
_KEYS_AND_VALUES = ("to_k", "to_v", "add_k_proj", "add_v_proj")
_QUERY_NORMS = ("norm_q", "norm_added_q")
_KEY_NORMS = ("norm_k", "norm_added_k")
#: What a norm calls its shape: torch's and diffusers' own.
_SHAPES = ("normalized_shape", "dim")


def attention_layer(
    denoiser: nn.Module,
    path: str,
    absent: Callable[..., Any] = attention_without_heads,
    output: str | None = None,
) -> Layer:
    """Describe an attention whose groups are its heads, or groups of heads that share keys and values.

    A joint attention has projections for image and text; a head leaves both at once.

    Args:
        denoiser: The model.
        path: Path of the attention module.
        absent: What its forward becomes without heads.
        output: Path of the linear that takes its result, where that is not its own `to_out`.
    """
    return Layer(path, "attention", (head_family(denoiser, path, absent, output),))


def head_family(
    denoiser: nn.Module, path: str, absent: Callable[..., Any] = attention_without_heads, output: str | None = None
) -> GroupFamily:
    """Return the heads of the attention at `path`; see `attention_layer`."""
    attention: Any = denoiser.get_submodule(path)
    head_dim = _rows(denoiser, f"{path}.to_q") // attention.heads
    key_heads = _rows(denoiser, f"{path}.to_k") // head_dim
    # With grouped-query attention several heads share one key and value; they stay and leave together.
    per_key = attention.heads // key_heads
    queries, keys = per_key * head_dim, head_dim
    rows = [
        *(Span(f"{path}.{name}", queries) for name in _QUERIES if _has(attention, name)),
        *(Span(f"{path}.{name}", keys) for name in _KEYS_AND_VALUES if _has(attention, name)),
    ]
    norms = [
        *((f"{path}.{name}", queries) for name in _QUERY_NORMS if _across_heads(attention, name, head_dim)),
        *((f"{path}.{name}", keys) for name in _KEY_NORMS if _across_heads(attention, name, head_dim)),
    ]
    attributes = {
        "heads": per_key,
        "inner_dim": queries,
        "inner_kv_dim": keys,
        "kv_inner_dim": keys,
        "sliceable_head_dim": per_key,
    }
    return GroupFamily(
        kind="head",
        count=key_heads,
        rows=(*rows, *(Span(norm, size, scored=False) for norm, size in norms)),
        columns=tuple(Span(linear, queries) for linear in _outputs(attention, path, output)),
        attributes=(
            *(GroupAttribute(path, name, value) for name, value in attributes.items() if name in vars(attention)),
            *(attribute for norm, size in norms for attribute in _shape(denoiser, norm, size)),
        ),
        absent=Absent(path, absent),
    )


def _rows(denoiser: nn.Module, path: str) -> int:
    linear = plain_module(denoiser, path)
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def _has(attention: nn.Module, name: str) -> bool:
    return getattr(attention, name, None) is not None


def _across_heads(attention: nn.Module, name: str, head_dim: int) -> bool:
    """Whether a norm runs over all heads at once: then its weight has an entry for each of their channels."""
    weight = getattr(getattr(attention, name, None), "weight", None)
    return weight is not None and len(weight) != head_dim


def _outputs(attention: nn.Module, path: str, output: str | None) -> Iterator[str]:
    if output is not None:
        yield output
    elif isinstance(getattr(attention, "to_out", None), nn.ModuleList):
        yield f"{path}.to_out.0"
    if _has(attention, "to_add_out"):
        yield f"{path}.to_add_out"


def _shape(denoiser: nn.Module, norm: str, size: int) -> Iterator[GroupAttribute]:
    known = vars(denoiser.get_submodule(norm))
    yield from (GroupAttribute(norm, name, size, as_shape=True) for name in _SHAPES if name in known)
