"""Versions of what a result depends on, kept in every manifest."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("diff-es", "torch", "diffusers", "transformers", "safetensors", "numpy", "torchmetrics")


def versions() -> dict[str, str]:
    """Return name → version of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
