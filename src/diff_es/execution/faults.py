"""Exceptions that say more of a worker than of its task: the GPU failed under it, or memory was lacking.

A GPU that breaks kills nobody. Its driver answers every call from then on with an error, in whatever Python happens to
call it; torch cannot use that device again in the same process. Memory may be lacking because of the task, or because
somebody else took the GPU's, or because too much of it was kept: a new process elsewhere tells which.
"""

from __future__ import annotations

from diff_es.errors import is_out_of_memory

#: How messages of a device begin; those of its libraries (cuBLAS) come as CUDA errors, cuDNN has its own.
_DEVICE_ERRORS = ("CUDA error", "CUDA driver error", "HIP error", "cuDNN error")


def is_fault(error: BaseException) -> bool:
    """Whether a worker that has raised this is to be ended, as if it had died.

    By name and words: torch is not imported here, and not every error of a device has a class of its own.
    """
    if type(error).__name__ == "AcceleratorError" or is_out_of_memory(error):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(_DEVICE_ERRORS)


def described(error: BaseException) -> str:
    """Return the first line of a fault with its name; the rest is advice on finding it in one's own kernels."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
