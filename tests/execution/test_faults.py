"""Which exceptions say that a worker is not to be used any more."""

from __future__ import annotations

import pytest
import torch

from diff_es.errors import InputError
from diff_es.execution.faults import described, is_fault


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("whatever another backend says"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
    ids=str,
)
def test_a_device_that_fails_or_is_full(error: Exception) -> None:
    assert is_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("No CUDA error here"),
        InputError("CUDA error is no name of a metric."),
        ValueError("CUDA error"),
    ],
    ids=str,
)
def test_whatever_else_a_work_raises(error: Exception) -> None:
    assert not is_fault(error)


def test_a_fault_is_told_in_one_line() -> None:
    told = described(torch.AcceleratorError("CUDA error: unspecified launch failure\nFor debugging consider …"))
    assert told == "AcceleratorError: CUDA error: unspecified launch failure"
    assert described(MemoryError()) == "MemoryError: no message"
