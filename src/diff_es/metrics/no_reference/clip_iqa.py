"""CLIP-IQA (Wang et al., AAAI 2023) as piq computes it: is a photo nearer to "Good photo." or to "Bad photo."?

piq fetches OpenAI's CLIP RN50 and two ready-made token rows, from fixed places. The rows are ten numbers and stand
below; the network is built from the file that `metrics.no_reference.weights` finds. The score itself is piq's code.
It is not interchangeable with pyiqa's "clipiqa", which averages other prompts.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from diff_es.artifacts import sha256
from diff_es.errors import InputError
from diff_es.metrics.no_reference.network import QualityNetwork
from diff_es.metrics.no_reference.weights import PublishedWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

#: OpenAI's sha256 of RN50.pt, which is part of its address.
RN50_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
#: Tokens of CLIP's context.
_CONTEXT = 77
#: <start> "good photo ." <end> and <start> "bad photo ." <end> in CLIP's byte-pair encoding.
_ANTONYMS = ((49406, 886, 1125, 269, 49407), (49406, 2103, 1125, 269, 49407))


def tokens() -> Tensor:
    """Return the prompts "Good photo." and "Bad photo." as CLIP reads them, int64 of shape (2, 77)."""
    rows = torch.zeros(2, _CONTEXT, dtype=torch.int64)
    rows[:, : len(_ANTONYMS[0])] = torch.tensor(_ANTONYMS)
    return rows


def _piq() -> Any:
    try:
        from piq import clip_iqa  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError as error:
        raise InputError("The metric 'clip_iqa' needs piq: pip install 'diff-es[eval]'.") from error
    return clip_iqa


def _published() -> PublishedWeights:
    url: str = _piq().clip.PIQ_CLIP_MODEL_PATH
    return PublishedWeights(url, Path("~/.cache/clip").expanduser() / "RN50.pt", RN50_SHA256)


def _build(path: Path) -> nn.Module:
    """Build piq's CLIPIQA around the weights in `path`.

    `CLIPIQA.__init__` would read its own fixed paths, so its attributes are set here; `forward` is untouched.
    """
    piq = _piq()
    state = _state(path)
    try:
        network = piq.clip.build_model(state).float().requires_grad_(False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not hold the weights of CLIP RN50: {str(error).splitlines()[0]}") from error
    module: Any = piq.CLIPIQA.__new__(piq.CLIPIQA)
    torch.nn.Module.__init__(module)
    with torch.no_grad():
        anchors = network.encode_text(tokens()).float()
    module.feature_extractor = network
    module.data_range = 1.0
    module.register_buffer("anchors", anchors / anchors.norm(dim=-1, keepdim=True))
    module.register_buffer("logit_scale", network.logit_scale.exp())
    module.register_buffer("default_mean", torch.tensor(piq.OPENAI_CLIP_MEAN).view(1, 3, 1, 1))
    module.register_buffer("default_std", torch.tensor(piq.OPENAI_CLIP_STD).view(1, 3, 1, 1))
    built: nn.Module = module
    return built


def _state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from OpenAI's TorchScript archive and no other.

    A TorchScript archive is a program: it is opened only if its hash is OpenAI's.
    """
    if path.suffix == ".safetensors":
        try:
            state: dict[str, Tensor] = safetensors.torch.load_file(path)
            return state
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read as safetensors: {error}") from error
    found = sha256(path)
    if found != RN50_SHA256:
        raise InputError(
            f"{path} is not OpenAI's RN50.pt (its sha256 is {found}, not {RN50_SHA256}): it was cut off or altered; "
            "download it again, or give the weights as a .safetensors file."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
        archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return dict(archive.state_dict())


CLIP_IQA = QualityNetwork("clip_iqa", _published, _build)
