"""Memory mode "resident": a stage switch assigns a few hundred references, and nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diff_es.routing.cutter import Cutter, Key, keys_of
from diff_es.routing.residence import Addresses
from diff_es.routing.slots import Slot, Value

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.schedule import Levels, PruningSchedule


class Resident:
    """The thin weights of all stages on the device; older ones too while a byte limit allows."""

    def __init__(self, cutter: Cutter, cache_bytes: int) -> None:
        """Start empty.

        Args:
            cutter: Cuts thin layers.
            cache_bytes: Bytes of thin layers to keep beyond the present schedule.
        """
        self.addresses = Addresses()
        self._cutter = cutter
        self._cache = _ThinCache(cache_bytes)
        self._rows: tuple[Levels, ...] = ()
        self._stage: int | None = None
        self._moves: dict[tuple[int | None, int | None], list[tuple[Slot, Any]]] = {}

    def prepare(self, schedule: PruningSchedule) -> None:
        """Cut what the schedule needs and the cache lacks."""
        self.addresses = Addresses()
        self._rows = schedule.layer_levels
        self._moves = {}
        keys = [key for stage, row in enumerate(self._rows) for key in keys_of(stage, row)]
        self._cache.pin(set(keys))
        for key in keys:
            if self._cache.get(key) is None:
                self._cache.put(key, self._cutter.cut(key))

    def enter(self, stage: int | None) -> None:
        """Write the slots that differ from the present stage's."""
        move = (self._stage, stage)
        if move not in self._moves:
            self._moves[move] = self._differences(*move)
        for slot, value in self._moves[move]:
            slot.write(value)
        self._stage = stage

    def detach(self) -> None:
        """Nothing: the dense weights are converted with the model."""

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Convert every cached value in place."""
        self.addresses = Addresses()
        self._moves = {}
        self._cache.convert(function)

    def release(self) -> None:
        """Nothing to do: the dense weights never left."""

    def _differences(self, before: int | None, after: int | None) -> list[tuple[Slot, Any]]:
        """The slots whose values are not the same in two stages, with those of the second."""
        found = []
        for index, slots in enumerate(self._cutter.slots):
            pairs = zip(slots, self._filling(before, index), self._filling(after, index), strict=True)
            found += [(slot, new) for slot, old, new in pairs if new is not old]
        return found

    def _filling(self, stage: int | None, index: int) -> list[Any]:
        """What the slots of a layer hold in a stage."""
        dense = self._cutter.dense[index]
        level = 0 if stage is None else self._rows[stage][index]
        if stage is None or level == 0:
            return list(dense)
        values = self._cache.get((stage, index, level))
        assert values is not None  # prepared
        return [own if value is None else value for own, value in zip(dense, values, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """A copy finds its own moves: those that are known lead to the slots of the original."""
        return {**self.__dict__, "_moves": {}}


class _ThinCache:
    """Values of thin layers: those of the present schedule always, older ones while the byte limit allows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Key, tuple[Value, ...]] = OrderedDict()
        # Counted once: a search pins anew for every candidate.
        self._bytes: dict[Key, int] = {}

    def get(self, key: Key) -> tuple[Value, ...] | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: Key, values: tuple[Value, ...]) -> None:
        self._entries[key] = values
        self._bytes[key] = _size(values)

    def pin(self, keys: set[Key]) -> None:
        """Keep these whatever they take, and of the others the most recently used within the limit."""
        idle = [key for key in self._entries if key not in keys]
        excess = sum(self._bytes[key] for key in idle) - self._limit
        for key in idle:
            if excess <= 0:
                return
            del self._entries[key]
            excess -= self._bytes.pop(key)

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        for key, values in self._entries.items():
            for value in values:
                if isinstance(value, nn.Parameter):
                    with torch.no_grad():
                        value.data = function(value.data)
            self._bytes[key] = _size(values)


def _size(values: tuple[Value, ...]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, nn.Parameter))
