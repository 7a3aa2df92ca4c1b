"""What Inception-v3 says of images: the features of FID, precision and recall, and the logits of the inception score.

The network is torch-fidelity's conversion of the TensorFlow weights of 2015-12-05 that ADM's evaluator uses too, with
TensorFlow 1's own way to enlarge images to 299 × 299 inside: give images at their native size.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diff_es.errors import ArtifactError, InputError
from diff_es.progress import track

if TYPE_CHECKING:
    from torch.nn import Module

#: sha256 of the weights that published numbers are measured with.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

#: They have 95 MB; a file of another order of size is something else.
_MAX_WEIGHTS_BYTES = 2**30

_LAYERS = ["2048", "logits_unbiased"]


@dataclass(frozen=True, eq=False)
class InceptionOutput:
    """What Inception-v3 says about N images; both float32 on the CPU.

    Attributes:
        pool3: (N, 2048) features after the last pooling: those of FID, precision and recall.
        logits: (N, 1008) logits without the bias: those of the inception score, here as in ADM and torch-fidelity.
    """

    pool3: Tensor
    logits: Tensor


class InceptionFeatures:
    """Inception-v3 with its weights, ready to read images; made by `load`.

    Attributes:
        weights_sha256: sha256 of the weights file, recorded beside every number; with any other than
            `PUBLISHED_SHA256` the numbers cannot be compared with published ones.
        version: The library that runs it ("torch-fidelity 0.4.0").
        device: Where it runs.
    """

    def __init__(self, network: Module, weights_sha256: str, device: torch.device) -> None:
        self._network = network.to(device)
        self.weights_sha256 = weights_sha256
        self.version = f"torch-fidelity {version('torch-fidelity')}"
        self.device = device

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> InceptionFeatures:
        """Load the network.

        Args:
            weights: The state dict as a file, torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`; None uses
                the copy in torch's cache, which is downloaded there (95 MB) if it is missing.
            device: Where to run it. On GPUs torch's own settings hold, as in torch-fidelity: TF32 in convolutions
                unless the caller has switched it off.

        Raises:
            InputError: torch-fidelity is not installed, or the weights are neither here nor to be downloaded.
            ArtifactError: the file does not hold Inception's weights.
        """
        network_class, url = _library()
        path = _cached(url) if weights is None else weights
        if not path.is_file():
            raise InputError(f"The Inception weights {path} do not exist; {_way_out(url)}")
        if path.stat().st_size > _MAX_WEIGHTS_BYTES:
            raise ArtifactError(f"{path} is larger than 1 GiB, Inception's weights have 95 MB; {_way_out(url)}")
        content = path.read_bytes()
        try:
            network = _network(network_class, _state_dict(content))
        except ArtifactError as error:
            raise ArtifactError(f"{path} does not hold Inception's weights: {error}; {_way_out(url)}") from error
        return cls(network, hashlib.sha256(content).hexdigest(), device)

    def extract_batches(self, batches: Iterable[Tensor], *, total: int | None = None) -> InceptionOutput:
        """Read images batch by batch: a set need not fit into memory, and its images may differ in size.

        Args:
            batches: (n, 3, H, W) each, n ≥ 1, uint8, or float in [0, 1]; n, H and W may differ from batch to batch.
                Floats become uint8 as ⌊255 x⌉, ties to even: what diffusers does when it makes PIL images, so that a
                tensor and its PNG file give the same features.
            total: Number of batches, for the progress bar.

        Raises:
            InputError: another layout or type, no image, or values that are not in [0, 1].
        """
        parts = [self._read(_pixels(batch)) for batch in track(batches, "Extracting Inception features", total=total)]
        if not parts:
            raise InputError("There are no images to read; give at least one.")
        return InceptionOutput(torch.cat([pool3 for pool3, _ in parts]), torch.cat([logits for _, logits in parts]))

    def _read(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            pool3, logits = self._network(pixels.to(self.device))
        return pool3.cpu(), logits.cpu()


def _library() -> tuple[Any, str]:
    """Return torch-fidelity's network class and where its weights are."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415
            URL_INCEPTION_V3,
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise InputError(
            f"Inception features need torch-fidelity ({error}); install it: pip install 'diff-es[eval]'."
        ) from error
    return FeatureExtractorInceptionV3, URL_INCEPTION_V3


def _cached(url: str) -> Path:
    """Return the weights in torch's cache, where torch-fidelity looks too; download them if they are missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=PUBLISHED_SHA256, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the sha256 is another one
        raise InputError(
            f"The Inception weights are not in {path.parent} and cannot be downloaded ({error}); {_way_out(url)}"
        ) from error
    return path


def _way_out(url: str) -> str:
    return (
        f"get the file from {url} on a machine that can reach it, and name it with --inception-weights "
        "(in Python: weights=...)."
    )


def _state_dict(content: bytes) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may hold.

    Raises:
        ArtifactError: no such file, or one with anything but tensors.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError("it is no PyTorch file, or holds more than tensors, which could run code") from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ArtifactError(f"it is damaged or no PyTorch file ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError("it is not a dictionary of tensors (a state dict)")
    for name, value in state.items():
        if not value.isfinite().all():
            raise ArtifactError(f"{name} holds NaN or infinity")
    return state


def _network(network_class: Any, state: dict[str, Tensor]) -> Module:
    """Build the network around a checked state dict.

    torch-fidelity's constructor takes weights only as something for an unrestricted `torch.load`. What it gets is our
    own copy in memory of the tensors that were checked, never the file.
    """
    copy = io.BytesIO()
    torch.save(state, copy)
    copy.seek(0)
    with torch.random.fork_rng(devices=[]):  # layers draw initial weights, which must not shift the caller's seeds
        try:
            network: Module = network_class("inception-v3-compat", _LAYERS, feature_extractor_weights_path=copy)
        except RuntimeError as error:  # names and shapes, one a line
            raise ArtifactError(" ".join(str(error).split())[:300]) from error
    return network


def _pixels(images: Tensor) -> Tensor:
    """Check a batch and return it as uint8."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise InputError(f"images must have shape (N ≥ 1, 3, H, W), got {tuple(images.shape)}.")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"images must be uint8, or float in [0, 1], got {images.dtype}.")
    values = images.detach().float()
    if not (values.isfinite().all() and values.min() >= 0 and values.max() <= 1):
        low, high = float(values.min()), float(values.max())
        raise InputError(f"images of a float type must lie in [0, 1], got values from {low:.4g} to {high:.4g}.")
    return (values * 255).round().to(torch.uint8)
