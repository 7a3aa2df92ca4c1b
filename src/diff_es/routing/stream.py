"""Memory mode "stream": two stages' weights on the device, all others and the dense ones in host memory.

The weights of a stage lie one after the other in one block of pinned host memory, and are copied as one to the arena on
the device while the stage before computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diff_es.errors import UnsupportedModelError
from diff_es.routing.arena import Arena, arena_room
from diff_es.routing.cutter import Cutter
from diff_es.routing.residence import Addresses
from diff_es.routing.slots import Value

if TYPE_CHECKING:
    from diff_es.schedule import Levels, PruningSchedule

#: Parameters begin at multiples of this many entries: matrix units want addresses at multiples of 16 bytes or more.
_ALIGNMENT = 128


class Stream:
    """Copies the next stage's weights from host memory while the present stage runs."""

    def __init__(self, cutter: Cutter, denoiser: nn.Module) -> None:
        """Start without a schedule.

        Args:
            cutter: Cuts thin layers.
            denoiser: The dense model, where it will run.
        """
        self.addresses = Addresses()
        self._cutter = cutter
        self._denoiser = denoiser
        self._device = next(denoiser.parameters()).device
        self._changed: tuple[int, ...] = ()
        self._stages: tuple[_StageWeights, ...] = ()
        self._room = 0
        self._arena: Arena | None = None
        #: For each stage, the values whose parameters lie in the arena.
        self._in_arena: tuple[list[tuple[Value, ...]], ...] = ()
        self._parked = False

    def prepare(self, schedule: PruningSchedule) -> None:
        """Cut layer after layer, each moved to host memory before the next is cut.

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
        allowed = arena_room(_bytes(self._denoiser.parameters()), _bytes(self._dense_parameters()))
        self._room = allowed // self._stages[0].block.element_size() // _ALIGNMENT * _ALIGNMENT

    def enter(self, stage: int | None) -> None:
        """Point at a stage as soon as its copy is done, and have the next one copied meanwhile."""
        if stage is None:
            for index in self._changed:
                self._cutter.write(index, None)
            return
        self._park()
        if self._arena is None:
            self._arena = Arena([own.block for own in self._stages], self._room, self._device)
            self._in_arena = tuple(own.values(self._arena.of(i)) for i, own in enumerate(self._stages))
        self._arena.enter(stage)
        for index, values in zip(self._changed, self._in_arena[stage], strict=True):
            self._cutter.write(index, values)

    def detach(self) -> None:
        """Take the parked dense parameters out of the model: they stay in host memory."""
        if self._parked:
            self._write_parameters(None)

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Follow the model to another device or dtype; the arena is made anew there."""
        if self._parked:
            self._write_parameters(self._cutter.dense)
        if not self._stages:
            return
        dtype = self._stages[0].block.dtype
        moved = function(torch.empty(0, dtype=dtype, device=self._device))
        self._device = moved.device
        self._clear_arena()
        if moved.dtype != dtype:
            for weights in self._stages:
                weights.convert(moved.dtype)
            for parameter in self._dense_parameters() if self._parked else []:
                parameter.data = parameter.data.to(moved.dtype)

    def release(self) -> None:
        """Bring the dense weights back to the device, and free the arena there."""
        self._clear_arena()
        if self._parked:
            for parameter in self._dense_parameters():
                parameter.data = parameter.data.to(self._device)
            self._parked = False

    def _clear_arena(self) -> None:
        if self._arena is not None:
            self._arena.close()
        self._arena, self._in_arena = None, ()
        self.addresses = Addresses()

    def _park(self) -> None:
        """Move the dense weights of the pruned layers to host memory."""
        if not self._parked:
            self._parked = True  # already now: if one cannot be moved, those before it are to come back
            for parameter in self._dense_parameters():
                parameter.data = parameter.data.to("cpu", copy=True)

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
        """What the slots of a layer hold in a stage, in host memory; dense values are copied along with thin ones."""
        dense = self._cutter.dense[index]
        values = self._cutter.cut((stage, index, row[index])) if row[index] else dense
        whole = (own if value is None else value for own, value in zip(dense, values, strict=True))
        return tuple(
            nn.Parameter(value.detach().cpu(), requires_grad=False) if isinstance(value, nn.Parameter) else value
            for value in whole
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes an arena and a stream of its own."""
        return {**self.__dict__, "_arena": None, "_in_arena": ()}


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
        self.block = _pinned(self._offsets[-1], next(iter(dtypes), torch.float32))
        for offset, parameter in zip(self._offsets, parameters, strict=False):
            self.block[offset : offset + parameter.numel()].copy_(parameter.detach().flatten())

    def values(self, block: Tensor) -> list[tuple[Value, ...]]:
        """Return the values whose parameters lie in a part of the arena."""
        places = iter(zip(self._offsets, self._shapes, strict=False))
        return [tuple(_view(value, block, places) for value in layer) for layer in self._layers]

    def convert(self, dtype: torch.dtype) -> None:
        """Change the dtype of all parameters."""
        self.block = _pinned(len(self.block), dtype).copy_(self.block)


def _view(value: Value, block: Tensor, places: Iterator[tuple[int, torch.Size]]) -> Value:
    """Return the next parameter of a block; what is none stays as it is."""
    if value is not nn.Parameter:
        return value
    offset, shape = next(places)
    return nn.Parameter(block[offset : offset + shape.numel()].view(shape), requires_grad=False)


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _pinned(count: int, dtype: torch.dtype) -> Tensor:
    """Return zeros in host memory, pinned where a GPU may read them."""
    return torch.zeros(count, dtype=dtype, device="cpu", pin_memory=torch.cuda.is_available())
