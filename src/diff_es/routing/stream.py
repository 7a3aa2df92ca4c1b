"""Memory mode "stream": two stages' weights on the device, all others and the dense ones in host memory.

The weights of a stage lie one after the other in one block of pinned host memory. The device has two such blocks: while
a stage computes with one, a copy on a stream of its own fills the other with the next stage's weights. Stages run in a
fixed order (the noisiest first), so that each stage always has the same block and the next one is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diff_es.errors import UnsupportedModelError
from diff_es.routing.cutter import Cutter
from diff_es.routing.slots import Value

if TYPE_CHECKING:
    from diff_es.schedule import Levels, PruningSchedule

#: Parameters begin at multiples of this many entries: matrix units want addresses at multiples of 16 bytes or more.
_ALIGNMENT = 128


class Stream:
    """Copies the next stage's weights from host memory while the present stage runs."""

    fixed = True

    def __init__(self, cutter: Cutter, device: torch.device) -> None:
        """Start without a schedule.

        Args:
            cutter: Cuts thin layers.
            device: Where the denoiser runs.
        """
        self._cutter = cutter
        self._device = device
        self._changed: tuple[int, ...] = ()
        self._stages: tuple[_StageWeights, ...] = ()
        self._blocks: _Blocks | None = None
        self._parked = False

    def prepare(self, schedule: PruningSchedule) -> None:
        """Cut stage after stage and move each to host memory before the next is cut.

        Raises:
            UnsupportedModelError: pruned layers whose weights have several dtypes.
        """
        self.release()
        pruned = {index for row in schedule.layer_levels for index, level in enumerate(row) if level > 0}
        self._changed = tuple(sorted(pruned))
        self._stages = tuple(
            _StageWeights([self._stage_values(stage, index, row) for index in self._changed])
            for stage, row in enumerate(schedule.layer_levels)
        )

    def enter(self, stage: int | None) -> None:
        """Point at a stage as soon as its copy is done, and have the next one copied meanwhile."""
        if stage is None:
            for index in self._changed:
                self._cutter.write(index, None)
            return
        self._park()
        if self._blocks is None:
            self._blocks = _Blocks(self._stages, self._device)
        for index, values in zip(self._changed, self._blocks.enter(stage), strict=True):
            self._cutter.write(index, values)

    def detach(self) -> None:
        """Take the parked dense parameters out of the model: they stay in host memory."""
        if self._parked:
            self._write_parameters(None)

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Follow the model to another device or dtype; the blocks are made anew there."""
        if self._parked:
            self._write_parameters(self._cutter.dense)
        if not self._stages:
            return
        dtype = self._stages[0].block.dtype
        moved = function(torch.empty(0, dtype=dtype, device=self._device))
        self._device, self._blocks = moved.device, None
        if moved.dtype != dtype:
            for weights in self._stages:
                weights.convert(moved.dtype)
            for parameter in self._dense_parameters() if self._parked else []:
                parameter.data = _on_host(parameter.data.to(moved.dtype))

    def release(self) -> bool:
        """Bring the dense weights back to the device, and free the blocks there."""
        self._blocks = None
        if self._parked:
            for parameter in self._dense_parameters():
                parameter.data = parameter.data.to(self._device)
            self._parked = False
        return True

    def _park(self) -> None:
        """Move the dense weights of the pruned layers to host memory."""
        if not self._parked:
            for parameter in self._dense_parameters():
                parameter.data = _on_host(parameter.data)
            self._parked = True

    def _dense_parameters(self) -> list[nn.Parameter]:
        """The dense parameters of the pruned layers, each once."""
        found = (value for index in self._changed for value in self._cutter.dense[index])
        return list({id(value): value for value in found if isinstance(value, nn.Parameter)}.values())

    def _write_parameters(self, dense: Sequence[Sequence[Any]] | None) -> None:
        for index in self._changed:
            for position, slot in enumerate(self._cutter.slots[index]):
                if slot.kind == "parameter":
                    slot.module._parameters[slot.name] = None if dense is None else dense[index][position]

    def _stage_values(self, stage: int, index: int, row: Levels) -> tuple[Value, ...]:
        """What the slots of a layer hold in a stage; the dense values are copied along with the thin ones."""
        dense = self._cutter.dense[index]
        if row[index] == 0:
            return dense
        values = self._cutter.cut((stage, index, row[index]))
        return tuple(own if value is None else value for own, value in zip(dense, values, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes blocks and streams of its own."""
        return {**self.__dict__, "_blocks": None}


class _StageWeights:
    """All values of one stage: parameters packed in one block of host memory, the rest as it is."""

    def __init__(self, values: Sequence[Sequence[Value]]) -> None:
        parameters = [value for layer in values for value in layer if isinstance(value, nn.Parameter)]
        dtypes = {parameter.dtype for parameter in parameters}
        if len(dtypes) > 1:
            raise UnsupportedModelError(
                f"The pruned layers have weights of several dtypes ({', '.join(sorted(map(str, dtypes)))}), which "
                'mode="stream" cannot copy as one: use mode="resident" or "gather".'
            )
        # The class stands for "the next parameter of the block".
        self._layers = [[nn.Parameter if isinstance(v, nn.Parameter) else v for v in layer] for layer in values]
        self._shapes = [parameter.shape for parameter in parameters]
        sizes = [_aligned(parameter.numel()) for parameter in parameters]
        self._offsets = [0, *accumulate(sizes)]
        self.block = _on_host(torch.zeros(self._offsets[-1], dtype=next(iter(dtypes), torch.float32)))
        for offset, parameter in zip(self._offsets, parameters, strict=False):
            self.block[offset : offset + parameter.numel()].copy_(parameter.detach().flatten())

    def values(self, block: Tensor) -> list[tuple[Value, ...]]:
        """Return the values whose parameters lie in a block of the device."""
        places = iter(zip(self._offsets, self._shapes, strict=False))
        return [tuple(self._placed(value, block, places) for value in layer) for layer in self._layers]

    def convert(self, dtype: torch.dtype) -> None:
        """Change the dtype of all parameters."""
        self.block = _on_host(self.block.to(dtype))

    def _placed(self, value: Value, block: Tensor, places: Any) -> Value:
        if value is not nn.Parameter:
            return value
        offset, shape = next(places)
        return nn.Parameter(block[offset : offset + shape.numel()].view(shape), requires_grad=False)


class _Blocks:
    """The two blocks on the device, and which stage lies in which."""

    def __init__(self, stages: Sequence[_StageWeights], device: torch.device) -> None:
        self._stages = stages
        count = len(stages)
        # Position in sampling order: neighbours never share a block.
        self._side = [(count - 1 - stage) % 2 for stage in range(count)]
        needed = [
            [own.block.numel() for own, at in zip(stages, self._side, strict=True) if at == side] for side in (0, 1)
        ]
        sizes = [max(blocks, default=0) for blocks in needed]
        self._memory = [torch.empty(size, dtype=stages[0].block.dtype, device=device) for size in sizes]
        self._values = [stages[stage].values(self._memory[self._side[stage]]) for stage in range(count)]
        self._holds: list[int | None] = [None, None]
        self._copies = _Copies(device)

    def enter(self, stage: int) -> list[tuple[Value, ...]]:
        """Return the values of a stage, once they are copied, and start copying the next stage's."""
        self._fill(stage)
        self._copies.wait(self._side[stage])
        following = (stage - 1) % len(self._stages)
        if self._side[following] != self._side[stage]:
            self._fill(following)
        return self._values[stage]

    def _fill(self, stage: int) -> None:
        side = self._side[stage]
        if self._holds[side] == stage:
            return
        source = self._stages[stage].block
        self._copies.start(side, self._memory[side][: source.numel()], source)
        self._holds[side] = stage


class _Copies:
    """Copies to the device, on a stream of their own where the device has streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._done: list[torch.cuda.Event | None] = [None, None]

    def start(self, side: int, target: Tensor, source: Tensor) -> None:
        """Copy after everything that has been asked of the device so far, which may still read the old weights."""
        if self._stream is None:
            target.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        self._done[side] = done

    def wait(self, side: int) -> None:
        """Let what is asked of the device from now on begin after the copy to one side."""
        done = self._done[side]
        if done is not None:
            torch.cuda.current_stream(self._device).wait_event(done)


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _on_host(tensor: Tensor) -> Tensor:
    """Return a copy in host memory, pinned where a GPU may read it."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())
    return host.copy_(tensor.detach())
