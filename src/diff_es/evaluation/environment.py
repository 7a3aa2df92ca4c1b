"""Where a number was measured: versions of what computed it, device, processor."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from diff_es.versions import versions


@dataclass(frozen=True)
class Environment:
    """The machine and the libraries of a measurement.

    Attributes:
        python: Version of Python.
        packages: Package → version.
        platform: Operating system and architecture.
        cpu: Name of the processor.
        cpu_count: Processor threads that this process may use.
        threads: CPU threads of torch.
        device: Name of the GPU, or of the CPU where there is none.
    """

    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    cpu_count: int
    threads: int
    device: str


def environment(device: torch.device | None = None) -> Environment:
    """Describe this machine; `device` defaults to the GPU if there is one, else the CPU."""
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packages = versions()
    return Environment(
        python=packages.pop("python"),
        packages=packages,
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(),
        cpu_count=_usable_cpus(),
        threads=torch.get_num_threads(),
        device=device_name(where),
    )


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU that a torch device stands for."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return cpu_name() if device.type == "cpu" else device.type


def cpu_name() -> str:
    """Return the processor's name as the system gives it, or its architecture where it gives none."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _usable_cpus() -> int:
    """Containers and job schedulers often grant fewer processors than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
