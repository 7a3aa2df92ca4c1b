"""One CUDA graph per stage: a denoiser call without the time that the host takes to launch its kernels.

At small batches a GPU computes a pruned layer faster than the host can ask for it, and pruning would gain nothing. A
graph is asked for once. It reads its inputs and weights from fixed addresses, so that it belongs to one stage and one
shape of the inputs: those are copied in, and the output is copied out, because the next replay writes over it.
"""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from diff_es.denoisers import ROUTER, copy_output, each_tensor
from diff_es.errors import UnsupportedModelError
from diff_es.routing.residence import Addresses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.routing.router import Router

#: Recordings that are kept per schedule, the least recently used go first.
_KEPT = 256
#: Runs before recording: libraries choose their algorithms, and compiled code is made, in the first ones.
_WARM_UP = 3
_log = logging.getLogger(__name__)


class CudaGraphs:
    """Stands in for a denoiser's forward: records it once per stage and shape of the inputs, then replays."""

    def __init__(self, denoiser: nn.Module, forward: Callable[..., Any]) -> None:
        """Take a forward; nothing is recorded yet.

        Args:
            denoiser: On a CUDA device.
            forward: Its forward, compiled or not.
        """
        functools.update_wrapper(self, forward)
        #: Tells it from a plain forward, also where a hook is put around it: hooks copy what is on the instance.
        self.records_graphs = True
        self._denoiser = denoiser
        self._forward = forward
        #: Recordings go with the addresses that they read.
        self._recordings: WeakKeyDictionary[Addresses, OrderedDict[Hashable, _Recording]] = WeakKeyDictionary()
        #: Where the dense weights were at the last call, and what stands for that.
        self._dense: tuple[Hashable, Addresses] = ((), Addresses())
        self._recorders: dict[torch.device, _Recorder] = {}
        self._tensors = tuple(own for part in denoiser.modules() for own in (part._parameters, part._buffers) if own)
        self._warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser; without a graph where gradients are wanted, or where its weights move at every run.

        Raises:
            UnsupportedModelError: the weights of a stage move about in memory ("gather"), or the forward does what no
                graph can hold.
        """
        if torch.is_grad_enabled() or self._is_offloaded():
            return self._forward(*args, **kwargs)
        addresses, stage = self._weights()
        recordings = self._recordings.setdefault(addresses, OrderedDict())
        key = (stage, _signature((args, kwargs)), _cast_to())
        if key not in recordings:
            recordings[key] = self._recorder().record(self._forward, args, kwargs)
            if len(recordings) > _KEPT:
                recordings.popitem(last=False)
        recordings.move_to_end(key)
        return recordings[key].replay(args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaGraphs:
        """Recordings read the weights of the original."""
        raise UnsupportedModelError("A pipeline with CUDA graphs cannot be copied: uncompile_(pipe) first.")

    def _weights(self) -> tuple[Addresses, int | None]:
        """What stands for the addresses that the forward reads at present, and the stage whose weights lie there."""
        router: Router | None = vars(self._denoiser).get(ROUTER)
        if router is None:
            return self._dense_addresses(), None
        if router.addresses is None:
            raise UnsupportedModelError(
                f'CUDA graphs need the weights of a stage at fixed addresses, and mode="{router.mode}" cuts them anew '
                'at every switch: use mode="resident" or "stream", or compile_(pipe, cuda_graphs=False).'
            )
        return router.addresses, router.stage

    def _dense_addresses(self) -> Addresses:
        """Any weight may have moved: a streamed model that is dense again has those of its pruned layers elsewhere."""
        found = (value for own in self._tensors for value in own.values() if value is not None)
        places = tuple((value.data_ptr(), value.dtype) for value in found)
        if places != self._dense[0]:
            self._dense = (places, Addresses())
        return self._dense[1]

    def _is_offloaded(self) -> bool:
        offloaded = hasattr(self._denoiser, "_hf_hook")
        if offloaded and not self._warned:
            _log.warning(
                "The denoiser is offloaded, so that its weights move at every run: it runs without CUDA graphs."
            )
            self._warned = True
        return offloaded

    def _recorder(self) -> _Recorder:
        device = next(self._denoiser.parameters()).device
        if device not in self._recorders:
            self._recorders[device] = _Recorder(device)
        return self._recorders[device]


class _Recorder:
    """Records on one device, on one stream: only there do recordings share the memory of what they compute between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.graph_pool_handle()

    def record(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Recording:
        """Run a few times, then record.

        Raises:
            UnsupportedModelError: the forward does what no graph can hold.
        """
        present = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device), _plainly():
            inputs = each_tensor([args, kwargs], lambda tensor: tensor.to(self._device, copy=True))
            self._stream.wait_stream(present)
            # The stream is set here too: where recording fails, torch leaves its own as the present one.
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP):
                    forward(*inputs[0], **inputs[1])
                graph, output = self._capture(lambda: forward(*inputs[0], **inputs[1]))
            present.wait_stream(self._stream)
        return _Recording(graph, inputs, output)

    def _capture(self, call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._memory, stream=self._stream):
                output = call()
        except RuntimeError as error:
            if any(isinstance(own, torch.OutOfMemoryError) for own in (error, error.__context__)):
                raise
            raise UnsupportedModelError(
                f"This denoiser's calls cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}): it waits "
                "for the device, or copies from the host, within each call. Use compile_(pipe, cuda_graphs=False)."
            ) from error
        return graph, output


class _Recording:
    """The kernels of one call, and the memory that they read from and write to."""

    def __init__(self, graph: torch.cuda.CUDAGraph, inputs: Any, output: Any) -> None:
        self._graph = graph
        self._inputs = inputs
        self._output = output

    def replay(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run on other inputs of the same shapes."""
        for own, new in zip(_tensors(self._inputs), _tensors([args, kwargs]), strict=True):
            own.copy_(new, non_blocking=True)
        self._graph.replay()
        return copy_output(self._output)


@contextmanager
def _plainly() -> Iterator[None]:
    """Within, a recording can be made that holds later on too, whatever the first call was made in.

    Inputs that are made under `torch.inference_mode` could not be written outside it. Weights that autocast has cast
    and remembers are freed when it ends, and a graph would go on reading them.
    """
    dtype = _cast_to()
    cast = torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False)
    with torch.inference_mode(mode=False), torch.no_grad(), cast:
        yield


def _cast_to() -> torch.dtype | None:
    """What autocast casts to at present; None where there is none."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


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
