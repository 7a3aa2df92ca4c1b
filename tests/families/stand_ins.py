"""Modules that compute what is left of a layer without heads or channels, written apart from the library."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class NoHeads(nn.Module):
    """An attention without heads: biases, for the text too where the attention is joint."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.joint = getattr(attention, "add_q_proj", None) is not None
        self.bias = attention.to_out[0].bias
        text = getattr(attention, "to_add_out", None)
        self.text, self.text_bias = text is not None, None if text is None else text.bias

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        image = _repeated(self.bias, hidden_states)
        if not self.joint or encoder_hidden_states is None:
            return image
        return image, _repeated(self.text_bias, encoder_hidden_states) if self.text else encoder_hidden_states


class EmptyResult(nn.Module):
    """The attention of a parallel block without heads: no column for the projection that follows."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states[..., :0]


class OnlyChannels(nn.Module):
    """A parallel attention in one module, without heads."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.first, self.act, self.second = attention.to_qkv_mlp_proj, attention.mlp_act_fn, attention.to_out

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        result: Tensor = self.second(self.act(self.first(hidden_states)))
        return result


class NoChannels(nn.Module):
    """A convolutional FFN without channels; its last convolution has no bias."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.new_zeros(hidden_states.shape)


def _repeated(bias: Tensor | None, tokens: Tensor) -> Tensor:
    zeros = tokens.new_zeros(tokens.shape)  # contiguous, as what a linear gives
    return zeros if bias is None else zeros + bias
