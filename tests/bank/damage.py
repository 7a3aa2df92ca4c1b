"""Ways in which a folder of ours may be damaged, each with the message that must tell."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

SHARD = "stage-01.safetensors"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the manifest as someone would who means harm or uses another version."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / SHARD).read_bytes())
    content[-3] ^= 1
    (folder / SHARD).write_bytes(content)


def cut_a_shard(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


def drop_a_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def drop_a_shard_and_its_entry(folder: Path) -> None:
    drop_a_shard(folder)
    rewrite(folder, lambda manifest: manifest.update(files=[f for f in manifest["files"] if f["path"] != SHARD]))


def drop_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-40])


def come_from_the_future(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest.update(format=99, news="unknown"))


def name_a_file_outside(folder: Path) -> None:
    outside = folder.parent / "secret"
    outside.write_bytes(b"secret")
    entry = {"path": "../secret", "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    rewrite(folder, lambda manifest: manifest["files"].append(entry))


def name_an_absolute_file(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest["files"][0].update(path=str(folder / SHARD)))


def link_outside(folder: Path) -> None:
    outside = folder.parent / "elsewhere.safetensors"
    (folder / SHARD).rename(outside)
    (folder / SHARD).symlink_to(outside)


def add_an_unknown_key(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest.update(surprise=1))


def change_a_type(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest.update(method=7))


#: (damage, what the message says), found when the folder is opened.
ON_OPENING = [
    (flip_a_byte, "stage-01.safetensors is damaged"),
    (cut_a_shard, "stage-01.safetensors is damaged"),
    (drop_a_shard, "stage-01.safetensors is missing"),
    (drop_a_shard_and_its_entry, "stage-01.safetensors"),
    (drop_the_manifest, "has no manifest.json"),
    (cut_the_manifest, "manifest.json is no valid"),
    (come_from_the_future, "format 99.*upgrade"),
    (name_a_file_outside, "leaves the folder"),
    (name_an_absolute_file, "leaves the folder"),
    (link_outside, "leaves the folder"),
    (add_an_unknown_key, "unknown key 'surprise'"),
    (change_a_type, "no valid.*method"),
]


def poison(folder: Path, ending: str, value: float) -> str:
    """Put NaN or infinity into the first tensor whose name has this ending, and make the manifest agree."""
    tensors = safetensors.torch.load_file(folder / SHARD)
    name = next(name for name in tensors if re.search(f"{ending}$", name))
    tensors[name] = torch.full_like(tensors[name], value)
    content = safetensors.torch.save(tensors)
    (folder / SHARD).write_bytes(content)
    entry = {"path": SHARD, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(
        folder,
        lambda manifest: manifest.update(files=[entry if f["path"] == SHARD else f for f in manifest["files"]]),
    )
    return name
