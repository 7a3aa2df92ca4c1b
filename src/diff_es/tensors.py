"""safetensors files: written atomically, read lazily, damage reported as what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diff_es.artifacts import write_bytes
from diff_es.errors import ArtifactError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one safetensors file, atomically."""
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_bytes(path, content)


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
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{self.path}: {name} holds NaN or infinity.")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)
