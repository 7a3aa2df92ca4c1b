"""Shards of a bank: looking for a tensor does not read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diff_es.errors import ArtifactError
from diff_es.tensors import Shard, write_tensors


def test_whether_a_tensor_is_there_is_known_without_reading_it(tmp_path: Path) -> None:
    """The search asks for the bias of every thin layer that it cuts, and most layers have none stored."""
    path = tmp_path / "one.safetensors"
    write_tensors(path, {"a.weight": torch.ones(2)})
    shard = Shard(path)
    path.unlink()
    assert "a.weight" in shard and "a.bias" not in shard and 3 not in shard
    with pytest.raises(ArtifactError, match="is gone"):
        _ = shard["a.weight"]
