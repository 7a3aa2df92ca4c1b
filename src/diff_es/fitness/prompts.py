"""Encode the probes' prompts once: every candidate is sampled with the same ones.

With replay a candidate runs few denoiser calls, but the pipeline would run its text encoders each time: on
`zoo:fashion-flux` that takes 2 % of a dense rollout, and more of a candidate, which costs less than half of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class PromptEncodings:
    """What a pipeline's `encode_prompt` has given, by its arguments."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    @contextmanager
    def used_by(self, pipe: Any) -> Iterator[None]:
        """Let the pipeline take encodings that are known, and keep new ones, within the block.

        A pipeline without `encode_prompt` is left alone, and so is a call with arguments that are no plain values.
        """
        encode = getattr(pipe, "encode_prompt", None)
        if encode is None:
            yield
            return
        before = vars(pipe).get("encode_prompt")  # a user's own

        @wraps(encode)
        def encode_once(*args: Any, **kwargs: Any) -> Any:
            if not all(map(_plain, (*args, *kwargs.values()))):
                return encode(*args, **kwargs)
            key = repr((args, sorted(kwargs.items())))
            if key not in self._known:
                self._known[key] = _copy(encode(*args, **kwargs))
            return _copy(self._known[key])

        pipe.encode_prompt = encode_once
        try:
            yield
        finally:
            del pipe.encode_prompt
            if before is not None:
                pipe.encode_prompt = before


def _plain(value: Any) -> bool:
    """Whether the value's text says all of it."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.device | torch.dtype)


def _copy(encoding: Any) -> Any:
    """Copy the tensors of nested tuples and lists: what is kept must not change with what the pipeline does."""
    if isinstance(encoding, Tensor):
        return encoding.clone()
    if isinstance(encoding, tuple | list):
        return type(encoding)(map(_copy, encoding))
    return encoding
