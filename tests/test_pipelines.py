"""Dense pipelines by name; what is no name, dtype or folder is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diff_es import zoo
from diff_es.errors import InputError
from diff_es.pipelines import load_pipeline


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "torch.bfloat16"])
def test_a_dtype_may_be_torchs_own(dtype: str | torch.dtype) -> None:
    assert load_pipeline("zoo:fashion-dit", dtype, "cpu").transformer.dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", ["fp16", "int64", torch.int64, "float64", "Tensor"])
def test_other_dtypes_are_refused(dtype: str | torch.dtype) -> None:
    with pytest.raises(InputError, match=f"dtype={dtype!r} is none to load models in; use float32, float16, bfloat16"):
        load_pipeline("zoo:fashion-dit", dtype, "cpu")


def test_a_folder_may_be_a_path() -> None:
    assert load_pipeline(zoo.path("fashion-dit"), device="cpu").transformer is not None


def test_only_pipelines_are_offered(tmp_path: Path) -> None:
    """The shipped autoencoder and classifier are no pipelines."""
    with pytest.raises(InputError) as caught:
        load_pipeline(tmp_path, device="cpu")
    assert "Give zoo:NAME (fashion-dit, fashion-sdxl, fashion-flux), a folder" in str(caught.value)
    with pytest.raises(InputError, match="Known: fashion-dit, fashion-flux, fashion-sdxl"):
        load_pipeline("zoo:fashion-nothing", device="cpu")
