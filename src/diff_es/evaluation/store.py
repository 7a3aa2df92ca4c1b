"""Sampled images that outlive the process: a run that is stopped goes on, and several processes fill one folder.

The requests are cut into chunks of consecutive ones; each chunk is one safetensors file, written atomically, so that
at most the chunks in work are lost. A process locks a chunk while it samples it; the lock falls with the process,
however it ends. A chunk that another process has locked is left to it, and looked at again at the end.

A chunk file holds each tensor of its samples, the tensor's sha256, and the seeds: a flipped bit or a file under
another's name is an error when it is read, never a slightly different result.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeAlias, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diff_es.artifacts import claim, held, write_bytes
from diff_es.errors import ArtifactError, InputError
from diff_es.progress import track

#: Samples per file.
CHUNK = 64
_SEEDS = "seeds"
_DIGEST = "/sha256"
#: Seconds between two looks at the chunks that other processes work on.
_POLL = 0.2

#: Name → dtype and shape of one sample.
_Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]


class Batchable(Protocol):
    """Samples to make, each from its own seed (`Requests`, `PromptRequests`)."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per sample."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, size: int) -> Iterator[Self]:
        """Cut into consecutive batches of at most `size`."""


R = TypeVar("R", bound=Batchable)


@dataclass(frozen=True)
class _Chunk:
    """The file of some consecutive samples."""

    path: Path
    seeds: tuple[int, ...]

    def layout(self) -> _Layout:
        """Read names, dtypes and shapes of the samples.

        Raises:
            ArtifactError: the file is damaged or cut off, or holds other samples.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
                types = {name: str(part.get_dtype()) for name, part in slices.items()}
        except (SafetensorError, OSError) as error:
            raise self._damaged(str(error)) from error
        names = {name for name in shapes if name != _SEEDS and not name.endswith(_DIGEST)}
        if not names or {_SEEDS, *names, *(name + _DIGEST for name in names)} != set(shapes):
            raise self._damaged(f"it holds {sorted(shapes)}")
        if any(shapes[name][:1] != (len(self.seeds),) for name in (*names, _SEEDS)):
            raise self._damaged(f"it does not hold {len(self.seeds)} samples")
        if self._tensors(_SEEDS)[0].tolist() != list(self.seeds):
            raise self._damaged("it holds samples of other seeds")
        return {name: (types[name], shapes[name][1:]) for name in sorted(names)}

    def read(self, name: str) -> Tensor:
        """Read one tensor and check it.

        Raises:
            InputError: the samples have no tensor of that name.
            ArtifactError: the file is damaged.
        """
        known = self.layout()
        if name not in known:
            raise InputError(f"The samples hold no {name!r}; they hold {', '.join(known)}.")
        tensor, digest = self._tensors(name, name + _DIGEST)
        if not torch.equal(_digest(tensor), digest):
            raise self._damaged(f"the sha256 of {name} differs")
        return tensor

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the file, atomically, with the seeds and the checksums."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        digests = {name + _DIGEST: _digest(tensor) for name, tensor in whole.items()}
        seeds = torch.tensor(self.seeds, dtype=torch.int64)
        write_bytes(self.path, safetensors.torch.save({**whole, **digests, _SEEDS: seeds}))

    def _tensors(self, *names: str) -> list[Tensor]:
        """Read tensors as they are; unlike those of a bank they may hold NaN."""
        with safe_open(self.path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]

    @property
    def lock(self) -> Path:
        """The file that a process locks while it makes this chunk."""
        return self.path.with_name(f".{self.path.stem}.lock")

    def _damaged(self, how: str) -> ArtifactError:
        return ArtifactError(f"{self.path} is damaged: {how}; remove the file, and it will be made again.")


@dataclass(frozen=True)
class StoredSamples:
    """Samples in a folder, complete, in the order of their requests; read chunk by chunk when asked for."""

    folder: Path
    chunks: tuple[_Chunk, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every sample."""
        return tuple(seed for chunk in self.chunks for seed in chunk.seeds)

    def batches(self, name: str) -> Iterator[Tensor]:
        """Yield one tensor in batches (n, …), each read from disk and checked when it is its turn.

        Raises:
            InputError: the samples have no tensor of that name.
            ArtifactError: a file is damaged.
        """
        return (chunk.read(name) for chunk in self.chunks)

    def images(self) -> Iterator[Tensor]:
        """Yield the images in batches, (n, H, W, 3) uint8; they were stored as round(255 x) of x in [0, 1]."""
        return self.batches("images")

    def tensor(self, name: str) -> Tensor:
        """Return one tensor of all samples, (N, …)."""
        return torch.cat(list(self.batches(name)))


def stored(  # noqa: PLR0913 (where, what, how)
    folder: Path,
    requests: R,
    produce: Callable[[R], Mapping[str, Tensor]],
    *,
    settings: object,
    chunk: int = CHUNK,
    batch_size: int | None = None,
    description: str = "Generating images",
) -> StoredSamples:
    """Sample what the folder does not hold yet, and return all of it.

    May be called by several processes at once on the same folder: they share the work, and each returns when all is
    there. What is stored depends on neither their number nor on being stopped.

    Args:
        folder: Made where it is missing.
        requests: The samples to make.
        produce: Samples one batch: a mapping of name → tensor (n, …), the same names, dtypes and shapes for every
            batch. A sample must depend on its own request alone. NaN is kept as it is.
        settings: A record of everything that the samples depend on; a folder of other settings is refused.
        chunk: Samples per file.
        batch_size: Samples per call of `produce`; a whole chunk by default.
        description: What the progress bar says.

    Raises:
        InputError: the folder was made with other settings or another `chunk`, or `produce` returned another number
            of rows.
        ArtifactError: a chunk is damaged (the message names it), or cannot be written.
    """
    for name, value in (("chunk", chunk), ("batch_size", batch_size or chunk)):
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
    chunks = _claim(folder, requests, settings, chunk)
    done = _fill(chunks, produce, batch_size or chunk)
    for _ in track(done, description, total=len(requests)):
        pass
    for path in folder.glob(".*.lock"):  # those of processes that were killed; all chunks exist now
        path.unlink(missing_ok=True)
    return StoredSamples(folder, tuple(chunks))


def missing_chunks(folder: Path, requests: R, *, settings: object, chunk: int) -> list[int]:
    """Prepare a folder as `stored` does, and return which chunks it lacks; see `make_chunk`.

    Raises:
        InputError, ArtifactError: as `stored`.
    """
    chunks = _claim(folder, requests, settings, chunk)
    return [index for index, own in enumerate(chunks) if not own.path.exists()]


def make_chunk(  # noqa: PLR0913 (where, what, how)
    folder: Path, requests: R, produce: Callable[[R], Mapping[str, Tensor]], index: int, *, chunk: int, batch_size: int
) -> None:
    """Sample one of the chunks that `missing_chunks` named, unless another process has it in work.

    Raises:
        InputError, ArtifactError: as `stored`.
    """
    own, part = list(_chunks(folder, requests, chunk).items())[index]
    with held(own.lock) as mine:
        if mine and not own.path.exists():
            for _ in _make(own, part, produce, batch_size):
                pass


def check_stored(folder: Path, seeds: Sequence[int]) -> int:
    """Read all samples of a folder that `stored` has filled, and compare them with their checksums.

    Args:
        folder: The folder.
        seeds: Seeds of the samples that it must hold, in their order.

    Returns:
        Number of files.

    Raises:
        ArtifactError: a file is missing or damaged, or holds other samples.
    """
    first, chunks = 0, []
    for path in sorted(folder.glob("*.safetensors")):
        last = _last_sample(path, first, len(seeds))
        chunks.append(_Chunk(path, tuple(seeds[first : last + 1])))
        first = last + 1
    if first != len(seeds):
        raise ArtifactError(f"{folder} holds the first {first} of {len(seeds)} samples; make the others again.")
    _check_layouts(chunks)
    for chunk in chunks:
        for name in chunk.layout():
            chunk.read(name)
    return len(chunks)


def _last_sample(path: Path, first: int, count: int) -> int:
    """Read off a chunk's name which samples it holds; they must begin where the chunk before ended."""
    begin, _, end = path.stem.partition("-")
    if begin != f"{first:06d}" or not end.isdecimal() or not first <= int(end) < count:
        raise ArtifactError(
            f"{path} is not the file that begins with sample {first} of {count}: that one is missing, or this one is "
            "a stranger."
        )
    return int(end)


def _claim(folder: Path, requests: R, settings: object, size: int) -> dict[_Chunk, R]:
    """Bind the folder to the settings, and check what is there before anything is sampled."""
    lock = folder / ".settings.lock"
    with held(lock, wait=True):
        try:
            claim(folder, settings)
        finally:
            lock.unlink(missing_ok=True)
    chunks = _chunks(folder, requests, size)
    strangers = {path.name for path in folder.glob("*.safetensors")} - {own.path.name for own in chunks}
    if strangers:
        raise InputError(
            f"{folder} holds {min(strangers)}, which is no chunk of {size} of these {len(requests)} samples; choose "
            "another folder."
        )
    _check_layouts([own for own in chunks if own.path.exists()])
    return chunks


def _chunks(folder: Path, requests: R, size: int) -> dict[_Chunk, R]:
    """Cut the requests into the files of a folder."""
    chunks = {}
    for index, part in enumerate(requests.batches(size)):
        path = folder / f"{index * size:06d}-{index * size + len(part) - 1:06d}.safetensors"
        chunks[_Chunk(path, part.seeds)] = part
    return chunks


def _check_layouts(chunks: list[_Chunk]) -> None:
    """All chunks hold the same tensors, in dtypes and shapes."""
    if not chunks:
        return
    first = chunks[0].layout()
    for chunk in chunks[1:]:
        if chunk.layout() != first:
            raise ArtifactError(
                f"{chunk.path} holds {chunk.layout()}, {chunks[0].path.name} holds {first}; remove what is wrong."
            )


def _fill(chunks: Mapping[_Chunk, R], produce: Callable[[R], Mapping[str, Tensor]], size: int) -> Iterator[None]:
    """Make what is missing; yield once for every sample, whoever makes it."""
    waiting = list(chunks)
    while waiting:
        busy = []
        for chunk in waiting:
            if chunk.path.exists():
                yield from (None for _ in chunk.seeds)
                continue
            with held(chunk.lock) as mine:
                if not mine:
                    busy.append(chunk)
                elif chunk.path.exists():  # written between the look and the lock
                    yield from (None for _ in chunk.seeds)
                else:
                    yield from _make(chunk, chunks[chunk], produce, size)
            if mine:
                # Whoever waits for this very file will get its lock, find the chunk, and go on.
                chunk.lock.unlink(missing_ok=True)
        if len(busy) == len(waiting):
            time.sleep(_POLL)
        waiting = busy
    _check_layouts(list(chunks))


def _make(chunk: _Chunk, requests: R, produce: Callable[[R], Mapping[str, Tensor]], size: int) -> Iterator[None]:
    """Sample one chunk batch by batch and write it; yields once a sample. The caller holds the chunk's lock."""
    for leftover in chunk.path.parent.glob(f".{chunk.path.name}.*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    parts = []
    for batch in requests.batches(size):
        part = produce(batch)
        rows = {name: len(tensor) for name, tensor in part.items()}
        if set(rows.values()) != {len(batch)}:
            raise InputError(f"produce returned {rows} rows for {len(batch)} requests; it must make one for each.")
        parts.append(part)
        yield from (None for _ in range(len(batch)))
    chunk.write({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _digest(tensor: Tensor) -> Tensor:
    """Return the sha256 of a tensor's bytes, (32,) uint8."""
    content = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return torch.frombuffer(bytearray(hashlib.sha256(content.data).digest()), dtype=torch.uint8)
