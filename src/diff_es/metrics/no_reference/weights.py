"""Where the weights of a quality network are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from diff_es.errors import InputError
from diff_es.registry import suggest

#: The file that the user named for a metric, by the metric's name.
_chosen: dict[str, Path] = {}
#: Names of the metrics with a network; each module adds its own.
_known: set[str] = set()


@dataclass(frozen=True)
class PublishedWeights:
    """The weights file that a library publishes.

    Attributes:
        url: Where it is downloaded from.
        cache: Where the library keeps it once it is downloaded.
        sha256: What it must hash to, where the publisher says so; empty where nobody does.
    """

    url: str
    cache: Path
    sha256: str = ""


def use_weights(metric: str, path: str | Path | None) -> None:
    """Name the local weights file of a quality network; it is read when the metric is next used.

    Args:
        metric: "clip_iqa" (OpenAI's `RN50.pt`, or the same weights as `.safetensors`) or "topiq" (pyiqa's
            `cfanet_nr_koniq_res50-9a73138b.pth`).
        path: The file; None goes back to the environment variable or the library's own cache.

    Raises:
        InputError: no such metric, or no such file.
    """
    if metric not in _known:
        raise InputError(f"No weights are known for the metric {metric!r}: {suggest(metric, _known)}")
    if path is None:
        _chosen.pop(metric, None)
    else:
        _chosen[metric] = _existing(Path(path), f"use_weights({metric!r}, ...)")


def variable(metric: str) -> str:
    """Return the environment variable that names the weights file of a metric."""
    return f"DIFF_ES_WEIGHTS_{metric.upper()}"


def know(metric: str) -> None:
    """Let `use_weights` accept a metric."""
    _known.add(metric)


def chosen_file(metric: str) -> Path | None:
    """Return the file that the user named, in Python or in the environment; None leaves it to the library.

    Raises:
        InputError: the environment variable names no file.
    """
    if metric in _chosen:
        return _chosen[metric]
    named = os.environ.get(variable(metric))
    return _existing(Path(named), variable(metric)) if named else None


def published_file(metric: str, published: Callable[[], PublishedWeights]) -> Path:
    """Return the file in the library's cache, downloaded if it is missing.

    Raises:
        InputError: it is missing and cannot be downloaded, or what was downloaded is not what the publisher promises.
    """
    weights = published()
    if weights.cache.is_file():
        return weights.cache
    way_out = (
        f"Download {weights.url} on a machine with a network and put it there, or name a local file: "
        f"{variable(metric)}=FILE in the environment, or diff_es.metrics.use_weights({metric!r}, FILE)."
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(
            f"The weights of the metric {metric!r} are missing ({weights.cache}) and HF_HUB_OFFLINE is set. {way_out}"
        )
    try:
        weights.cache.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(weights.cache), hash_prefix=weights.sha256 or None)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash is another
        raise InputError(
            f"The weights of the metric {metric!r} are missing ({weights.cache}) and could not be downloaded "
            f"({error}). {way_out}"
        ) from error
    return weights.cache


def _existing(path: Path, source: str) -> Path:
    if not path.is_file():
        raise InputError(f"{source} names {path}, which is no file; name the weights file itself.")
    return path
