"""safetensors files: written atomically, read lazily, damage reported as what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diff_es.artifacts import replacing
from diff_es.errors import ArtifactError, InputError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one safetensors file, atomically.

    Raises:
        InputError: a tensor holds NaN or infinity; nothing is written then.
        ArtifactError: the file cannot be written.
    """
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise InputError(
                f"{name} got NaN or infinity, so {path} was not written; check the model's weights and inputs, and "
                "its dtype (float16 overflows: try bfloat16 or float32)."
            )
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(plain, temporary)  # `save` would copy all of it once more


class Shard(Mapping[str, Tensor]):
    """The tensors of one safetensors file, read one by one when asked for."""

    def __init__(self, path: Path) -> None:
        """Open `path` and read its header only.

        Raises:
            ArtifactError: the file is missing or no valid safetensors file.
        """
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                self._names = frozenset(file.keys())
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} cannot be read as safetensors: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        if not _finite(tensor):
            raise ArtifactError(f"{self.path}: {name} holds NaN or infinity; make or copy the folder again.")
        return tensor

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor; the default of a mapping would read it to find out."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
