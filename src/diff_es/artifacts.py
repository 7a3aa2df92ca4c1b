"""The only file I/O: typed JSON records, safetensors with checksums, and folders that are complete or absent.

Nothing here writes or reads pickle. A folder is written under a temporary name and renamed when it is complete,
so a reader never meets half of one; its manifest holds the sha256 of every other file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from diff_es.errors import ArtifactError, InputError

T = TypeVar("T")

MANIFEST = "manifest.json"
SETTINGS = "settings.json"
_MAX_JSON_BYTES = 64 * 2**20
#: Letters of a value that an error message shows.
_LONGEST_SHOWN = 200
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def write_record(path: Path, record: object) -> None:
    """Write a dataclass as JSON, atomically: a reader sees the old file or the new one.

    NaN and infinities are written as `NaN` and `Infinity` (pydantic's own dump would turn them into null, which no
    float field can read back).
    """
    text = json.dumps(TypeAdapter(type(record)).dump_python(record, mode="json"), indent=2, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and durably."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write a file under; afterwards it is synced and takes the place of `path`.

    Raises:
        ArtifactError: it cannot be written; `path` is then what it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]  # of safetensors
        raise ArtifactError(f"Cannot write {path}: {reason}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_record(path: Path, kind: type[T]) -> T:
    """Read a JSON file into a dataclass, strictly.

    Raises:
        ArtifactError: the file is missing, too large, no JSON, or does not hold such a record.
    """
    content = _content(path)
    record = _validated(path, content, kind)
    kept = TypeAdapter(kind).dump_python(record, mode="json")
    try:
        _refuse_unknown(json.loads(content, object_pairs_hook=_unique), kept, "")
    except InputError as error:
        raise ArtifactError(f"{path} is no valid {kind.__name__}: {error}", path) from error
    return record


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing.")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ArtifactError(f"{path} is larger than {_MAX_JSON_BYTES} bytes; it was not written by Diff-ES.")
    return path.read_bytes()


def _validated(path: Path, content: bytes, kind: type[T]) -> T:
    """Read JSON into a dataclass, types strictly, keys that it does not have ignored."""
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(f"{path} is no valid {kind.__name__}: {where}: {first['msg']}.", path) from error
    except InputError as error:
        raise ArtifactError(f"{path} is no valid {kind.__name__}: {error}", path) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of a JSON text, refusing a key that occurs twice (JSON parsers would keep the last)."""
    known = dict(pairs)
    if len(known) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice.")
    return known


def _refuse_unknown(raw: Any, kept: Any, where: str) -> None:
    """Refuse keys that reading dropped: pydantic ignores those that a dataclass does not have.

    Args:
        raw: The JSON text as parsed.
        kept: The record as it would be written.
        where: Dotted path of `raw` in the file, for the message.
    """
    if isinstance(raw, dict) and isinstance(kept, dict):
        for key, value in raw.items():
            if key not in kept:
                raise InputError(f"unknown key {where + key!r}.")
            _refuse_unknown(value, kept[key], f"{where}{key}.")
    elif isinstance(raw, list) and isinstance(kept, list):
        for value, entry in zip(raw, kept, strict=True):
            _refuse_unknown(value, entry, where)


@dataclass(frozen=True)
class _Format:
    format: int


def read_manifest(folder: Path, kind: type[T], newest: int) -> T:
    """Read the manifest of a folder.

    Raises:
        ArtifactError: no manifest (the folder is incomplete or foreign), a damaged one, or one of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it is incomplete, or was not written by Diff-ES.", path)
    # Read leniently: a newer format may hold what this version does not know, and that is what to say.
    version = _validated(path, _content(path), _Format).format
    if version > newest:
        raise ArtifactError(f"{folder} has format {version}; this version reads up to {newest}: upgrade diff-es.")
    if version < newest:
        raise ArtifactError(
            f"{folder} has format {version} of an older diff-es; this version reads {newest}: make it again."
        )
    return read_record(path, kind)


def claim(folder: Path, settings: object) -> None:
    """Write what a folder's files will depend on, or check that the files already there depend on the same.

    Args:
        folder: Made where it is missing; its files may be reused by whoever claims it with equal settings.
        settings: A record.

    Raises:
        InputError: the folder was claimed with other settings.
    """
    path = folder / SETTINGS
    if path.exists():
        if others := _other_settings(path, settings):
            raise InputError(
                f"{folder} was made with other settings ({'; '.join(others)}; see {path}); choose another folder or "
                "remove it."
            )
        return
    if folder.exists() and any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} holds files of unknown settings; choose another folder or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    write_record(path, settings)


def _other_settings(path: Path, settings: object) -> list[str]:
    """Name what differs between a record of settings, perhaps of an older format, and those of now."""
    try:
        if read_record(path, type(settings)) == settings:
            return []
        damage = "they differ"
    except ArtifactError as error:
        damage = str(error)
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return [damage]
    return differences(found, TypeAdapter(type(settings)).dump_python(settings, mode="json")) or [damage]


def differences(there: Any, here: Any) -> list[str]:
    """Name the entries in which two JSON values differ ("space.sparsity is 0.4 there, 0.5 here").

    Long values are not shown. An entry that is missing counts as null.
    """
    return list(_differences(there, here, ""))


def _differences(there: Any, here: Any, where: str) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{where}.{key}" if where else key)
    elif there != here:
        pair = (repr(there), repr(here))
        short = max(map(len, pair)) <= _LONGEST_SHOWN
        yield f"{where} is {pair[0]} there, {pair[1]} here" if short else f"{where} differs"


def is_leftover(path: Path) -> bool:
    """Whether a name is one under which a file or folder is written until it is complete."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing below a folder; no one else may be writing there now."""
    for path in list(folder.rglob(".*.tmp")):
        if is_leftover(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock falls with the process, however it ends.

    Raises:
        InputError: another process holds it.
    """
    with held(folder / ".lock") as mine:
        if not mine:
            raise InputError(f"{folder} is in use by another run; wait for it or choose another folder.")
        yield


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file, and say whether it could be had; it falls with the process, however it ends.

    Args:
        path: The file; it and its folder are made where they are missing.
        wait: Wait for another process that holds it, instead of answering False.

    Raises:
        ArtifactError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ArtifactError(f"Cannot write {path}: {error.strerror or error}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def slugs(names: Iterable[str]) -> list[str]:
    """Turn names into distinct file names of a-z, 0-9 and hyphens, in their order."""
    made: list[str] = []
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].rstrip("-") or "unnamed"
        slug, count = base, 1
        while slug in made:
            count += 1
            slug = f"{base}-{count}"
        made.append(slug)
    return made


def sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it to `path` when the block ends well, else remove it.

    Raises:
        InputError: `path` exists already.
        ArtifactError: the disk is full or not writable.
    """
    if path.exists():
        raise InputError(f"{path} exists already; choose another folder or remove it.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        _sync_files(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise ArtifactError(f"Cannot write {path}: {error.strerror or error}.") from error
    except SafetensorError as error:  # a full disk inside safetensors' own writer
        raise ArtifactError(f"Cannot write {path}: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_files(folder: Path) -> None:
    """Push every file to the disk before the rename makes them visible."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            sync(file)


def sync(path: Path) -> None:
    """Push a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileEntry:
    """One file of a folder: its path relative to the folder, its size in bytes and its sha256."""

    path: str
    size: int
    sha256: str


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Describe every file below `folder` but the manifest."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / MANIFEST)
    return tuple(FileEntry(file.relative_to(folder).as_posix(), file.stat().st_size, sha256(file)) for file in files)


def check_files(folder: Path, entries: tuple[FileEntry, ...]) -> None:
    """Check every listed file: inside the folder, present, of the right size and content.

    Raises:
        ArtifactError: a path leaves the folder, or a file is missing, cut off or altered.
    """
    for entry in entries:
        file = inside(folder, entry.path)
        if not file.is_file():
            raise ArtifactError(f"{folder}: {entry.path} is missing; copy the folder again, whole.", file)
        if file.stat().st_size != entry.size or sha256(file) != entry.sha256:
            raise ArtifactError(f"{folder}: {entry.path} is damaged (its sha256 differs from the manifest's).", file)


def inside(folder: Path, relative: str) -> Path:
    """Resolve a path from a manifest, refusing any that leaves the folder (also through a link).

    Raises:
        ArtifactError: the path is absolute or leaves the folder.
    """
    if "\0" in relative or len(relative) > 255:
        raise ArtifactError(f"{folder}: the manifest names {relative!r}, which is no path; do not trust it.")
    file = (folder / relative).resolve()
    if not file.is_relative_to(folder.resolve()) or Path(relative).is_absolute():
        raise ArtifactError(f"{folder}: the manifest names {relative!r}, which leaves the folder; do not trust it.")
    return file
