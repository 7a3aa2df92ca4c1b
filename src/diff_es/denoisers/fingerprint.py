"""A fingerprint that tells one set of weights from another in a moment, also for models of many gigabytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

#: Elements read of each tensor, evenly spaced: a fine-tuned model differs in nearly every one of them.
_ELEMENTS = 1024


@dataclass(frozen=True)
class Fingerprint:
    """Which weights an artefact belongs to.

    Attributes:
        architecture: Class name of the denoiser.
        dtype: Data type of its weights ("float32").
        sha256: Digest of the configuration's shapes and of evenly spaced elements of every parameter.
    """

    architecture: str
    dtype: str
    sha256: str

    def describe(self) -> str:
        """Return the words that error messages use."""
        return f"{self.architecture} ({self.dtype}, sha256 {self.sha256[:12]}…)"


@torch.no_grad()
def fingerprint(denoiser: nn.Module) -> Fingerprint:
    """Compute the fingerprint of a dense denoiser."""
    digest = hashlib.sha256()
    dtype = ""
    for name, tensor in sorted(denoiser.state_dict().items()):
        dtype = dtype or str(tensor.dtype).removeprefix("torch.")
        flat = tensor.reshape(-1)
        stride = max(1, flat.numel() // _ELEMENTS)
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(flat[::stride].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return Fingerprint(type(denoiser).__name__, dtype, digest.hexdigest())
