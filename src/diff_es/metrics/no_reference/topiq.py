"""TOPIQ without a reference (Chen et al., TIP 2024), pyiqa's `topiq_nr`: ResNet-50 features, trained on KonIQ-10k.

pyiqa and its weights may be used for non-commercial purposes only, so it is an extra of its own and its licence is
said when the metric is first used.
"""

from __future__ import annotations

import logging
import pickle
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diff_es.errors import InputError
from diff_es.metrics.no_reference.network import QualityNetwork
from diff_es.metrics.no_reference.weights import PublishedWeights

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)
_MODEL = "cfanet_nr_koniq_res50"


@cache
def _say_licence() -> None:
    _log.warning(
        "The metric 'topiq' uses pyiqa, which is licensed for non-commercial use only (PolyForm Noncommercial 1.0.0)."
    )


def _pyiqa() -> Any:
    try:
        import pyiqa  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError as error:
        raise InputError("The metric 'topiq' needs pyiqa: pip install 'diff-es[iqa]'.") from error
    return pyiqa


def _published() -> PublishedWeights:
    _pyiqa()
    from pyiqa.archs.topiq_arch import default_model_urls  # noqa: PLC0415 (an optional extra)

    url: str = default_model_urls[_MODEL]
    return PublishedWeights(url, Path(torch.hub.get_dir()) / "pyiqa" / url.rsplit("/", 1)[-1])


def _build(path: Path) -> nn.Module:
    """Build `topiq_nr` and fill it from `path`.

    pyiqa's own loading would unpickle whatever the file holds, and fetch a second file for the backbone, which the
    checkpoint holds as well.
    """
    pyiqa = _pyiqa()
    _say_licence()
    metric: nn.Module = pyiqa.create_metric(
        "topiq_nr", device=torch.device("cpu"), pretrained=False, backbone_pretrain=False
    )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["params"]
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        metric.net.load_state_dict(state, strict=True)  # type: ignore[union-attr]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} does not hold the weights of TOPIQ ({_MODEL}): {reason}") from error
    return metric


TOPIQ = QualityNetwork("topiq", _published, _build)
