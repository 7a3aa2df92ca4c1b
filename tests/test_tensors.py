"""Files written tensor by tensor, held against the safetensors library."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diff_es.errors import ArtifactError, InputError
from diff_es.tensors import Shard, stream_tensors, write_tensors

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
SHAPES = ((), (0,), (0, 4), (1,), (3,), (2, 3), (2, 1, 5))


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (100 * torch.randn(shape, generator=generator)).to(dtype)


def same(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_library_reads_what_was_written(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Behind a single odd byte, so that nothing lies where its type would like it to."""
    tensors = {"odd": random((1,), torch.uint8), "own": random(shape, dtype)}
    stream_tensors(tmp_path / "a.safetensors", tensors, tensors.items())
    read = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    assert same(read["own"], tensors["own"])
    assert same(Shard(tmp_path / "a.safetensors")["own"], tensors["own"])


Part: TypeAlias = tuple[str, tuple[int, ...], torch.dtype]
PARTS = st.lists(st.tuples(st.text(), st.sampled_from(SHAPES), st.sampled_from(DTYPES)), unique_by=lambda part: part[0])


@given(parts=PARTS)
def test_any_names_and_types(tmp_path_factory: pytest.TempPathFactory, parts: list[Part]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    usable = [part for part in parts if part[0] != "__metadata__" and part[0].isprintable()]
    tensors = {name: random(shape, dtype, index) for index, (name, shape, dtype) in enumerate(usable)}
    stream_tensors(path, [*tensors, "announced and never there"], tensors.items())
    read = safetensors.torch.load_file(path)
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensor) for name, tensor in tensors.items())


def test_the_same_bytes_as_the_library(tmp_path: Path) -> None:
    """But for the spaces that end the header, and the order, which for one type is the names'."""
    tensors = {name: random((7, 5), torch.bfloat16, index) for index, name in enumerate("abc")}
    write_tensors(tmp_path / "ours.safetensors", tensors)
    safetensors.torch.save_file(tensors, tmp_path / "theirs.safetensors")
    contents = []
    for name in ("ours", "theirs"):
        content = (tmp_path / f"{name}.safetensors").read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        assert start % 8 == 0
        contents.append((json.loads(content[8:start]), content[start:]))
    assert contents[0] == contents[1]


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    whole = random((6, 8), torch.float32)
    views = {"transposed": whole.T, "part": whole[1::2, 3:], "expanded": whole[:1].expand(4, 8)}
    write_tensors(tmp_path / "a.safetensors", views)
    read = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert all(same(read[name], view) for name, view in views.items())


def test_a_tensor_that_was_written_is_freed(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for index in range(4):
            gc.collect()
            # The writer's own variables still hold the one before.
            assert [reference() is None for reference in alive[:-1]] == [True] * max(0, index - 1)
            tensor = torch.ones(3)
            alive.append(weakref.ref(tensor))
            yield str(index), tensor
            del tensor

    stream_tensors(tmp_path / "a.safetensors", map(str, range(4)), tensors())
    assert len(Shard(tmp_path / "a.safetensors")) == len(alive) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_leaves_no_file(tmp_path: Path, value: float) -> None:
    tensors = {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}
    with pytest.raises(InputError, match="bad got NaN or infinity"):
        stream_tensors(tmp_path / "a.safetensors", tensors, tensors.items())
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_is_not_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a is of torch\.complex64"):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2, dtype=torch.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_an_error_midway_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield "a", torch.zeros(2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        stream_tensors(path, ["a", "b"], broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, torch; from pathlib import Path; from diff_es.tensors import stream_tensors\n"
        "def tensors():\n"
        "    yield 'a', torch.ones(2**20)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "stream_tensors(Path(sys.argv[1]), ['a', 'b'], tensors())"
    )
    path = tmp_path / "stage-00.safetensors"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Shard(path)
    write_tensors(path, {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == [path], "the next attempt removes what the killed one left"


def test_a_folder_that_takes_no_file_is_one_clear_error() -> None:
    with pytest.raises(ArtifactError, match=r"Cannot write /proc/a\.safetensors"):
        write_tensors(Path("/proc/a.safetensors"), {"a": torch.ones(2)})


def test_it_is_read_from_wherever_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    write_tensors(Path("a.safetensors"), {"a": torch.ones(2)})
    shard = Shard(Path("a.safetensors"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(shard["a"], torch.ones(2))


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "emptied"])
def test_what_happened_to_the_file_since_is_said(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    shard = Shard(path)
    harm(path)
    with pytest.raises(
        ArtifactError, match=r"a\.safetensors has changed or is gone since it was opened \(.*open it again"
    ):
        shard["a"]
