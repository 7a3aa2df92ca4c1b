"""safetensors files: written atomically and tensor by tensor, read lazily, damage reported as what it is."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diff_es.artifacts import replacing
from diff_es.errors import ArtifactError, InputError

#: safetensors' names of the types that are written.
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: Bytes that a header spends on one tensor beside its name, at most: 52 of keys, brackets and type, and 60 for the two
#: offsets and the shape, which is enough for files of 10^13 bytes.
_ENTRY = 112


def shard_name(index: int) -> str:
    """File name of the tensors of one stage."""
    return f"stage-{index:02d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one safetensors file, atomically.

    Raises:
        InputError: a tensor holds NaN or infinity; nothing is written then.
        ArtifactError: the file cannot be written.
    """
    stream_tensors(path, tensors, tensors.items())


def stream_tensors(path: Path, names: Iterable[str], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write tensors to one safetensors file as they come, atomically; none is held once it is written.

    The format has its header first, and the header holds every tensor's place. So room is left for the entries of
    `names`, filled at the end, and the rest of it is spaces, which the format allows.

    Args:
        path: The file; what a killed process left of an earlier attempt is removed.
        names: Names of all tensors that may come.
        tensors: Some of them or all, each once.

    Raises:
        InputError: a tensor holds NaN or infinity, or is of a type that is not written; nothing is left of the file.
        ArtifactError: the file cannot be written.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)
    expected = frozenset(names)
    room = sum(len(json.dumps(name)) + _ENTRY for name in expected) // 8 * 8 + 8
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(room.to_bytes(8, "little") + b" " * room)
        for name, tensor in tensors:
            assert name in expected, f"{name} was not announced"
            assert name not in header, f"{name} came twice"
            _check(name, tensor, path)
            file.write(_content(tensor))
            end = offset + tensor.numel() * tensor.element_size()
            header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
        entries = json.dumps(header, separators=(",", ":")).encode()
        assert len(entries) <= room, f"{len(entries)} bytes of header in a room of {room}"
        file.seek(8)
        file.write(entries)


def _check(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.dtype not in _TYPES:
        known = ", ".join(map(str, _TYPES))
        raise InputError(f"{name} is of {tensor.dtype}, so {path} was not written; use one of {known}.")
    if not _finite(tensor):
        raise InputError(
            f"{name} got NaN or infinity, so {path} was not written; check the model's weights and inputs, and "
            "its dtype (float16 overflows: try bfloat16 or float32)."
        )


def _content(tensor: Tensor) -> memoryview:
    """Bytes of a tensor in row-major order; of one that lies so on the CPU, without a copy."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


class Shard(Mapping[str, Tensor]):
    """The tensors of one safetensors file, read one by one when asked for.

    Raises:
        ArtifactError: by every access to a tensor, if it holds NaN or infinity, or if the file is gone.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` and read its header only.

        Raises:
            ArtifactError: the file is missing or no valid safetensors file.
        """
        # It is opened again for every tensor, wherever the process is by then.
        self.path = path.absolute()
        try:
            with safe_open(path, framework="pt") as file:
                self._names = frozenset(file.keys())
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} cannot be read as safetensors: {error}", path) from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        try:
            with safe_open(self.path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                f"{self.path} has changed or is gone since it was opened ({error}): tensors are read when they are "
                "needed, so leave the folder as it is, and open it again."
            ) from error
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
