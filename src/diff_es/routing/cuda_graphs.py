"""One CUDA graph per stage: a denoiser call without the time that the host takes to launch its kernels.

At small batches a GPU computes a pruned layer faster than the host can ask for it, and pruning would gain nothing. A
graph is asked for once. It reads its inputs and weights from fixed addresses, so that it belongs to one stage and one
shape of the inputs: those are copied in, and the output is copied out, because the next replay writes over it.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch

from diff_es.denoisers import ROUTER, copy_output, each_tensor
from diff_es.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.routing.router import Router

#: Recordings that are kept, the least recently used go first.
_KEPT = 256
#: Runs before recording: libraries choose their algorithms, and compiled code is made, in the first ones.
_WARM_UP = 3


class CudaGraphs:
    """Stands in for a denoiser's forward: records it once per stage and shape of the inputs, then replays."""

    #: Tells it from a plain forward.
    records_graphs = True

    def __init__(self, denoiser: nn.Module, forward: Callable[..., Any]) -> None:
        """Take a forward; nothing is recorded yet.

        Args:
            denoiser: On a CUDA device.
            forward: Its forward, compiled or not.
        """
        functools.update_wrapper(self, forward)
        self._denoiser = denoiser
        self._forward = forward
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._memory = torch.cuda.graph_pool_handle()
        self._parameters = tuple(own._parameters for own in denoiser.modules() if own._parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser.

        Raises:
            UnsupportedModelError: the weights of a stage move about in memory ("gather").
        """
        key = (self._weights(), _signature((args, kwargs)))
        recording = self._recordings.get(key)
        if recording is None:
            device = next(self._denoiser.parameters()).device
            with torch.cuda.device(device):
                recording = _Recording(self._forward, args, kwargs, device, self._memory)
            self._recordings[key] = recording
            if len(self._recordings) > _KEPT:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        return recording.replay(args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaGraphs:
        """Recordings read the weights of the original."""
        raise UnsupportedModelError("A pipeline with CUDA graphs cannot be copied: uncompile_(pipe) first.")

    def _weights(self) -> Hashable:
        """What tells which weights, at which addresses, the forward reads at present."""
        router: Router | None = vars(self._denoiser).get(ROUTER)
        if router is None:
            # Any of them may have moved: a streamed model that is dense again has those of its pruned layers elsewhere.
            found = (value for own in self._parameters for value in own.values() if value is not None)
            return (None, tuple((value.data_ptr(), value.dtype) for value in found))
        if not router.fixed_addresses:
            raise UnsupportedModelError(
                f'CUDA graphs need the weights of a stage at fixed addresses, and mode="{router.mode}" cuts them anew '
                'at every switch: use mode="resident" or "stream", or compile_(pipe, cuda_graphs=False).'
            )
        return (router.version, router.stage)


class _Recording:
    """The kernels of one call, and the memory that they read from and write to."""

    def __init__(
        self,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device: torch.device,
        memory: Any,
    ) -> None:
        self._inputs = each_tensor([args, kwargs], lambda tensor: tensor.to(device, copy=True))
        own_args, own_kwargs = self._inputs
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                forward(*own_args, **own_kwargs)
        torch.cuda.current_stream(device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # On this device's stream: the one that torch would take is of the device that first recorded anything.
        with torch.cuda.graph(self._graph, pool=memory, stream=beside):
            self._output = forward(*own_args, **own_kwargs)

    def replay(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run on other inputs of the same shapes."""
        for own, new in zip(_tensors(self._inputs), _tensors([args, kwargs]), strict=True):
            own.copy_(new, non_blocking=True)
        self._graph.replay()
        return copy_output(self._output)


def _tensors(call: Any) -> list[Tensor]:
    """All tensors of a call, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each_tensor(call, keep)
    return found


def _signature(value: Any) -> Hashable:
    """What must be the same for a recording to hold: shapes and dtypes of tensors, and everything else as it is."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return tuple((name, _signature(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(_signature(part) for part in value)
    return value  # type: ignore[no-any-return]
