"""What a module's forward becomes when nothing of it is left. Each is bound to its module as a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def attention_without_heads(self: nn.Module, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the output projection's bias for every token: bitwise what zeroed head columns give.

    Args:
        self: The attention module; `to_out[0]` is its output projection.
        hidden_states: Shape (N, tokens, width).
    """
    return _bias_everywhere(self.to_out[0], hidden_states)  # type: ignore[index]


def joint_attention_without_heads(
    self: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the biases of both output projections, for every token of image and text.

    Args:
        self: The attention module; `to_add_out` projects the text, where its block has any use for it.
        hidden_states: Image tokens, shape (N, tokens, width).
        encoder_hidden_states: Text tokens, shape (N, text tokens, width).
    """
    image = _bias_everywhere(self.to_out[0], hidden_states)  # type: ignore[index]
    if encoder_hidden_states is None:
        return image
    projection = getattr(self, "to_add_out", None)
    return image, encoder_hidden_states if projection is None else _bias_everywhere(projection, encoder_hidden_states)


def attention_without_result(self: nn.Module, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001
    """Return no column for any token, where a linear outside the attention projects its result."""
    return hidden_states.new_zeros(*hidden_states.shape[:-1], 0)


def identity_block(self: nn.Module, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001 (bound)
    """Skip a block that returns one tensor: its input leaves unchanged."""
    return hidden_states


def identity_joint_block(
    self: nn.Module,  # noqa: ARG001 (bound)
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, Tensor]:
    """Skip a block that returns text and image tokens, in this order."""
    return encoder_hidden_states, hidden_states


def _bias_everywhere(linear: Any, hidden_states: Tensor) -> Tensor:
    zeros = hidden_states.new_zeros(hidden_states.shape)
    return zeros if linear.bias is None else zeros + linear.bias
