"""Reference batches: round trips of a synthetic one, and every kind of bad file."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diff_es.artifacts import sha256
from diff_es.errors import ArtifactError, InputError
from diff_es.evaluation.reference import read_reference, write_reference
from diff_es.metrics import Gaussian, frechet_between, frechet_distance, gaussian

Arrays = dict[str, np.ndarray]


def features(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed)) * (1 + seed)


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def good() -> Arrays:
    stored = gaussian(features(40, 0))
    return {"mu": stored.mean.numpy(), "sigma": stored.covariance.numpy(), "arr_0": images()}


def refusal(path: Path) -> str:
    """Read a bad file; return the one line that is said, which must name the file and a way out."""
    with pytest.raises(ArtifactError) as refused:
        read_reference(path)
    message = str(refused.value)
    assert path.name in message
    assert "write_reference" in message
    assert "\n" not in message
    return message


def test_stored_statistics_give_the_distance_of_the_features(tmp_path: Path) -> None:
    real, generated = features(60, 0), features(50, 1)
    write_reference(tmp_path / "real.npz", gaussian(real), None)
    stored = read_reference(tmp_path / "real.npz")
    assert stored.images is None
    assert stored.gaussian is not None
    assert frechet_between(stored.gaussian, gaussian(generated)) == frechet_distance(real, generated)


def test_images_and_statistics_survive_the_round_trip(tmp_path: Path) -> None:
    write_reference(tmp_path / "a.npz", gaussian(features(60, 0)), images())
    write_reference(tmp_path / "b.npz", gaussian(features(60, 0)), images())
    stored = read_reference(tmp_path / "a.npz")
    assert np.array_equal(stored.images, images())
    assert stored.sha256 == sha256(tmp_path / "a.npz") == sha256(tmp_path / "b.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.npz"}


def test_images_alone_are_a_reference(tmp_path: Path) -> None:
    write_reference(tmp_path / "images.npz", None, images())
    stored = read_reference(tmp_path / "images.npz")
    assert stored.gaussian is None
    assert np.array_equal(stored.images, images())
    with pytest.raises(ArtifactError, match=r"holds \['arr_0'\], but neither mu and sigma nor arr_0 to read"):
        read_reference(tmp_path / "images.npz", with_images=False)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_numpy_with_all_of_adms_members_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays = good()
    single = {name: arrays[name].astype(np.float32) for name in ("mu", "sigma")}
    save(tmp_path / "adm.npz", **arrays | single, mu_s=np.zeros(7), sigma_s=np.zeros((7, 7)))
    stored = read_reference(tmp_path / "adm.npz")
    assert stored.gaussian is not None
    assert stored.gaussian.mean.dtype == stored.gaussian.covariance.dtype == torch.float64
    np.testing.assert_allclose(stored.gaussian.covariance, arrays["sigma"], rtol=1e-6)
    assert np.array_equal(stored.images, arrays["arr_0"])
    assert read_reference(tmp_path / "adm.npz", with_images=False).images is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": np.zeros((12, 1))}, r"mu (12, 1) and sigma (12, 12)"),
        ({"mu": np.zeros(11)}, r"mu (11,) and sigma (12, 12)"),
        ({"sigma": np.zeros((12, 11))}, r"sigma (12, 11)"),
        ({"mu": np.zeros(12, dtype=np.int64)}, "mu (int64) is not made of finite floats"),
        ({"mu": np.zeros(12, dtype=np.complex128)}, "mu (complex128) is not made of finite floats"),
        ({"mu": np.full(12, np.nan)}, "mu (float64) is not made of finite floats"),
        ({"sigma": np.full((12, 12), np.inf)}, "sigma (float64) is not made of finite floats"),
        ({"sigma": np.triu(np.ones((12, 12)))}, "sigma is no covariance"),
        ({"sigma": -np.eye(12)}, "sigma is no covariance"),
        ({"arr_0": np.zeros((4, 8, 8, 3), dtype=np.float32)}, "arr_0 is float32"),
        ({"arr_0": np.zeros((4, 3, 8, 8), dtype=np.uint8)}, "arr_0 is uint8 (4, 3, 8, 8)"),
        ({"arr_0": np.zeros((8, 8, 3), dtype=np.uint8)}, "arr_0 is uint8 (8, 8, 3)"),
        ({"arr_0": np.zeros((0, 8, 8, 3), dtype=np.uint8)}, "arr_0 of shape (0, 8, 8, 3)"),
        ({"mu": None}, "sigma alone"),
        ({"sigma": None}, "mu alone"),
        ({"mu": None, "sigma": None, "arr_0": None, "images": np.zeros(3)}, "holds ['images'], but neither mu"),
        ({"mu": None, "sigma": None, "arr_0": None}, "holds nothing"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {name: array for name, array in (good() | changes).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    assert message in refusal(tmp_path / "bad.npz")


class _RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pickle-was-run",)


@pytest.mark.parametrize("name", ["mu", "sigma", "arr_0"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "bad.npz", **good() | {name: np.array([_RunsCode()], dtype=object)})
    assert f"{name} holds pickled Python objects" in refusal(tmp_path / "bad.npz")
    assert not (tmp_path / "pickle-was-run").exists()


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "does not exist" in refusal(tmp_path / "folder.npz")


@pytest.mark.parametrize("content", [b"", b"mu,sigma\n1,2\n", b"PK\x03\x04", b"PK\x05\x06" + 30 * b"\xff"])
def test_no_zip_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    assert "no .npz file" in refusal(tmp_path / "bad.npz")


def test_an_array_file_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.zeros(3))
    assert "no .npz file" in refusal(tmp_path / "bad.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_cut_off_file_is_refused_wherever_it_ends(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "whole.npz", **good())
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "bad.npz").write_bytes(whole[:length])
        refusal(tmp_path / "bad.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_altered_byte_never_changes_what_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "whole.npz", **good())
    whole = (tmp_path / "whole.npz").read_bytes()
    refused = 0
    for position in range(0, len(whole), 41):
        altered = bytearray(whole)
        altered[position] ^= 0x10
        (tmp_path / "bad.npz").write_bytes(altered)
        try:
            stored = read_reference(tmp_path / "bad.npz")
        except ArtifactError:
            refused += 1
            continue
        # Dates and the like mean nothing; a changed name hides its member.
        assert stored.images is None or np.array_equal(stored.images, images())
        assert stored.gaussian is None or np.array_equal(stored.gaussian.covariance, good()["sigma"])
    assert refused > len(range(0, len(whole), 41)) // 2


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def npy_bytes(shape: tuple[int, ...], content: bytes, descr: str = "|u1") -> bytes:
    """An array file whose header says `shape`, whatever follows it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def peak_of_refusal(path: Path) -> tuple[str, int]:
    tracemalloc.start()
    try:
        return refusal(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("arr_0.npy", "w") as member:
        member.write(npy_bytes((128, 1024, 1024, 3), b""))
        for _ in range(3 * 128):
            member.write(bytes(2**20))
    assert path.stat().st_size < 500_000
    message, peak = peak_of_refusal(path)
    assert "arr_0 would grow from" in message
    assert peak < 2**20


def test_a_set_that_is_too_large_is_refused_by_its_headers(tmp_path: Path) -> None:
    np.savez(tmp_path / "large.npz", arr_0=images(100))
    with pytest.raises(ArtifactError, match=r"large\.npz .* more than max_bytes=19000"):
        read_reference(tmp_path / "large.npz", max_bytes=19_000)


def test_a_header_that_announces_more_than_there_is(tmp_path: Path) -> None:
    archive(tmp_path / "bad.npz", {"arr_0.npy": npy_bytes((10**9, 64, 64, 3), bytes(100))})
    message, peak = peak_of_refusal(tmp_path / "bad.npz")
    assert "arr_0 of shape (1000000000, 64, 64, 3) would take" in message
    assert peak < 2**20


def understate(path: Path, *, real: int, announced: int, crc: int) -> None:
    """Rewrite the size and checksum of the one member in both of the archive's headers."""
    content = path.read_bytes()
    old, new = struct.pack("<I", real), struct.pack("<I", announced)
    assert content.count(old) == 2
    old_crc = struct.pack("<I", zipfile.ZipFile(path).infolist()[0].CRC)
    assert content.count(old_crc) == 2
    path.write_bytes(content.replace(old, new).replace(old_crc, struct.pack("<I", crc)))


@pytest.mark.parametrize("forged", [False, True])
def test_a_member_that_is_longer_than_it_announces(tmp_path: Path, forged: bool) -> None:
    path, real = tmp_path / "bomb.npz", 50_000_123
    member = npy_bytes((1, 8, 8, 3), b"")
    announced = len(member) + 192
    member += bytes(real - len(member))
    archive(path, {"arr_0.npy": member})
    crc = zlib.crc32(member[:announced] if forged else member)
    understate(path, real=real, announced=announced, crc=crc)
    tracemalloc.start()
    try:
        if forged:  # then the announced part is a whole array, and nothing beyond it is inflated
            assert not read_reference(path).images.any()
        else:
            assert "damaged" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_stored_member_with_two_sizes(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    archive(path, {"arr_0.npy": npy_bytes((1, 8, 8, 3), bytes(192))}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 64)
    path.write_bytes(content)
    assert "arr_0 announces 64 bytes but has 320" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twin", ["mu.npy", "mu"])
def test_a_name_twice(tmp_path: Path, twin: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as file:
        for name in ("mu.npy", twin):
            file.writestr(name, npy_bytes((1,), b"x"))
    assert "two members of one name" in refusal(tmp_path / "bad.npz")


def test_too_many_members(tmp_path: Path) -> None:
    archive(tmp_path / "bad.npz", {f"arr_{index}.npy": b"" for index in range(1000)})
    assert "it has 1000 members" in refusal(tmp_path / "bad.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, compression: int) -> None:
    archive(tmp_path / "bad.npz", {"arr_0.npy": npy_bytes((1, 8, 8, 3), bytes(192))}, compression)
    assert "compressed in another way" in refusal(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"no array", "damaged"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{", "no array of numpy's format 1.0"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "damaged"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 40_000) + b" " * 40_000, "damaged"),
        (npy_bytes((-1, 8, 8, 3), bytes(192)), "of shape (-1, 8, 8, 3)"),
        (npy_bytes((1, 8, 8, 3), bytes(191)), "would take 320 bytes, but has 319"),
        (npy_bytes((1, 8, 8, 3), bytes(193)), "would take 320 bytes, but has 321"),
    ],
    ids=["text", "format 2.0", "nested header", "long header", "negative", "short", "long"],
)
def test_broken_array_headers(tmp_path: Path, member: bytes, message: str) -> None:
    archive(tmp_path / "bad.npz", {"arr_0.npy": member})
    assert message in refusal(tmp_path / "bad.npz")


def test_bad_content_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "new.npz"
    with pytest.raises(InputError, match="give gaussian or images"):
        write_reference(path, None, None)
    with pytest.raises(InputError, match=r"arr_0 is float64 \(2, 8, 8, 3\)"):
        write_reference(path, None, np.zeros((2, 8, 8, 3)))
    with pytest.raises(InputError, match=r"mu \(3,\) and sigma \(4, 4\)"):
        write_reference(path, Gaussian(torch.zeros(3), torch.eye(4)), None)
    with pytest.raises(InputError, match=r"mu .* finite"):
        write_reference(path, gaussian(features(9, 0) * torch.nan), None)
    assert not path.exists()


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Cannot write"):
        write_reference(tmp_path / "no folder" / "new.npz", None, images())
