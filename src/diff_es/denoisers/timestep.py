"""Read the timestep of a denoiser call without waiting for the device.

Reading a number from a GPU makes the host wait until everything before it has been computed: once per step, that
keeps the GPU idle between steps. Pipelines walk over the scheduler's tensor of timesteps, so that what reaches the
denoiser is mostly a view of one entry of it (`t`, `t.expand(batch)`): the whole tensor is then copied to the host
once, and the entry found by its place in memory. Where the denoiser gets a timestep that was computed anew (FLUX
divides it by 1,000), the scheduler of the running pipeline says which entry it was computed from (`scheduled`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Tensors of timesteps that are remembered: one per pipeline that runs at the same time is enough.
_REMEMBERED = 8
#: Entries of the largest tensor that is taken for one of timesteps: another one, of gigabytes, is not worth copying.
_MOST = 2**16
#: Devices whose memory the host reads without waiting.
_READ_AS_THEY_ARE = ("cpu",)


@dataclass(frozen=True)
class _Copy:
    """A tensor of timesteps and its values on the host.

    Attributes:
        original: Kept alive, so that its memory cannot become another tensor's.
        version: How often it had been written to when it was copied.
        values: Its whole storage.
    """

    original: Tensor
    version: int
    values: list[float]


_copies: OrderedDict[tuple[torch.device, int, torch.dtype], _Copy] = OrderedDict()


def read_timestep(value: Any) -> float:
    """Return a timestep as a number: the largest entry where it is a tensor of several.

    Args:
        value: A number, or a tensor of any shape with at least one entry, on any device.
    """
    if not isinstance(value, Tensor):
        return float(value)
    if value.device.type in _READ_AS_THEY_ARE or not is_one_entry_of_many(value):
        return _read(value)
    return _host_copy(value).values[value.storage_offset()]


def _read(value: Tensor) -> float:
    return float(value.max())


def is_one_entry_of_many(value: Tensor) -> bool:
    """Whether all elements are the same place in memory, of a tensor that has more places, but not too many."""
    one_place = all(size == 1 or stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True))
    many = 1 < value.untyped_storage().nbytes() // value.element_size() <= _MOST
    # What was made in inference mode does not count its writes.
    return one_place and many and not value.is_inference()


def _host_copy(value: Tensor) -> _Copy:
    """Return the copy of the tensor that `value` is an entry of, made where there is none or it was written to."""
    storage = value.untyped_storage()
    key = (value.device, storage.data_ptr(), value.dtype)
    known = _copies.get(key)
    if known is None or known.version != value._version:
        whole = torch.empty(0, dtype=value.dtype, device=value.device).set_(storage)
        known = _Copy(value, value._version, whole.tolist())
        _copies[key] = known
    _copies.move_to_end(key)
    while len(_copies) > _REMEMBERED:
        _copies.popitem(last=False)
    return known
