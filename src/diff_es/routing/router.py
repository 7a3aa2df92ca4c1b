"""USE stage weights at inference: one hook on the denoiser finds the stage and points the layers at its weights.

The router lives on the denoiser and is reached through module-level functions, never through closures: a deep copy
of a routed model then has a router of its own instead of steering the original. It is a plain forward pre-hook of
PyTorch, which CPU offload in either order leaves alone, and which stays outside the graph of a compiled model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from diff_es.denoisers import spec_of
from diff_es.errors import InputError
from diff_es.routing.accelerators import Accelerators
from diff_es.routing.slots import Slot, Value, dense_parameters, layer_slots, layer_values

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.bank import ThinLayer, ThinSource
    from diff_es.denoisers import Layer
    from diff_es.schedule import Levels, PruningSchedule

#: "resident": the thin weights of all stages stay on the device. "gather": only the running stage's, cut out of the
#: dense backbone at a stage switch.
Mode: TypeAlias = Literal["resident", "gather"]

#: Thin layers kept beyond the present schedule, for a search that comes back to them.
DEFAULT_CACHE_BYTES = 2 * 2**30


class Router:
    """Points the layers of one denoiser at the weights of the stage that runs."""

    def __init__(self, denoiser: nn.Module, source: ThinSource, mode: Mode = "resident", cache_bytes: int = 0) -> None:
        """Prepare the slots; nothing is changed until `point_at`.

        Args:
            denoiser: The dense model.
            source: Gives thin layers.
            mode: Where the stages' weights live.
            cache_bytes: Bytes of thin layers to keep beyond the present schedule (resident mode).

        Raises:
            UnsupportedModelError: a cache, offload or compilation of the denoiser that does not go with routing.
        """
        self.source = source
        self.mode = mode
        self.stage: int | None = None
        self.spec = spec_of(denoiser)
        self.layers: tuple[Layer, ...] = self.spec.layers(denoiser, blocks=source.depth)
        self._denoiser = denoiser
        self._accelerators = Accelerators(denoiser, self.spec, self.layers, depth=source.depth)
        self._accelerators.check()
        self._slots: tuple[tuple[Slot, ...], ...] = tuple(layer_slots(denoiser, layer) for layer in self.layers)
        self._dense: tuple[tuple[Any, ...], ...] = ()
        self._remember_dense()
        self._schedule: PruningSchedule | None = None
        self._cache = _ThinCache(cache_bytes)

    def set_schedule(self, schedule: PruningSchedule) -> None:
        """Route by another schedule from the next denoiser call on.

        Raises:
            InputError: a schedule of other layers, another number of stages or another H.
        """
        if schedule.layers != self.source.layers:
            raise InputError("The schedule names other layers than the weights; it belongs to another bank.")
        if schedule.num_stages != self.source.plan.num_stages:
            raise InputError(
                f"The schedule has {schedule.num_stages} stages, the weights {self.source.plan.num_stages}."
            )
        if schedule.num_levels != self.source.num_levels:
            raise InputError(
                f"The schedule has H={schedule.num_levels} levels, the weights H={self.source.num_levels}: a level "
                "of one removes another share than the same level of the other."
            )
        self.point_at(None)
        self._schedule = schedule
        self._cache.pin({key for stage, row in enumerate(schedule.layer_levels) for key in _keys(stage, row)})
        if self.mode == "resident":
            for stage, row in enumerate(schedule.layer_levels):
                for key in _keys(stage, row):
                    self._values(key)

    def on_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Point at the stage of this denoiser call.

        Raises:
            UnsupportedModelError: a cache, offload or compilation of the denoiser that cannot go on in this stage.
        """
        stage = self.source.plan.stage_at(self.spec.timestep(self._denoiser, args, kwargs))
        if stage != self.stage:
            self._accelerators.begin_stage_(self._planned())
            self.point_at(stage)

    def point_at(self, stage: int | None) -> None:
        """Point every layer at the weights of a stage, or at the dense ones (None)."""
        row: Levels = (0,) * len(self.layers) if stage is None else self._levels(stage)
        if self.mode == "gather":
            # The old stage's tensors go before the new ones are cut: that keeps the peak low.
            self._fill(None, (0,) * len(self.layers))
        self._fill(stage, row)
        self.stage = stage

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply to the parked weights what was just applied to the dense ones (`.to`, `.half`, offload)."""
        self._remember_dense()
        self._cache.convert(function)

    def _planned(self) -> PruningSchedule:
        assert self._schedule is not None
        return self._schedule

    def _levels(self, stage: int) -> Levels:
        return self._planned().layer_levels[stage]

    def _fill(self, stage: int | None, row: Levels) -> None:
        for index, level in enumerate(row):
            dense = self._dense[index]
            values: tuple[Value, ...] | None = None
            if stage is not None and level > 0:
                values = self._values((stage, index, level))
            for position, slot in enumerate(self._slots[index]):
                value = None if values is None else values[position]
                slot.write(dense[position] if value is None else value)

    def _values(self, key: _Key) -> tuple[Value, ...]:
        values = self._cache.get(key)
        if values is None:
            stage, index, level = key
            layer = self.layers[index]
            dense = self._dense_parameters(index)
            thin = _placed(self.source.thin(stage, layer, level), dense)
            values = layer_values(self._denoiser, layer, dense, thin)
            if self.mode == "resident":
                self._cache.put(key, values)
        return values

    def _dense_parameters(self, index: int) -> dict[str, Tensor]:
        """The layer's dense parameters, wherever the slots point at present."""
        names = dense_parameters(self._denoiser, self.layers[index])
        parked = [v for v, slot in zip(self._dense[index], self._slots[index], strict=True) if slot.kind == "parameter"]
        return dict(zip(names, parked, strict=True))

    def _remember_dense(self) -> None:
        """Read the dense values; the model must be pointing at them."""
        self._dense = tuple(tuple(slot.read() for slot in slots) for slots in self._slots)


def _placed(thin: ThinLayer, dense: Mapping[str, Tensor]) -> ThinLayer:
    """Copy the tensors of a thin layer to the device of the dense ones, also where they are there already.

    What a bank on disk gives is a view of the mapped file: kept, it would hold the whole file in the process's memory,
    once per tensor, and end the process if the file were cut while the model runs.
    """
    device = next((parameter.device for parameter in dense.values()), None)
    outputs = {name: tensor.to(device, copy=True) for name, tensor in thin.outputs.items()}
    return replace(thin, outputs=outputs)


#: (stage, index of the layer, level)
_Key: TypeAlias = tuple[int, int, int]


def _keys(stage: int, row: Levels) -> list[_Key]:
    return [(stage, index, level) for index, level in enumerate(row) if level > 0]


class _ThinCache:
    """Values of thin layers: those of the present schedule always, older ones while the byte limit allows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[_Key, tuple[Value, ...]] = OrderedDict()

    def get(self, key: _Key) -> tuple[Value, ...] | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: _Key, values: tuple[Value, ...]) -> None:
        self._entries[key] = values

    def pin(self, keys: set[_Key]) -> None:
        """Keep these whatever they take, and of the others the most recently used within the limit."""
        idle = {key: _size(values) for key, values in self._entries.items() if key not in keys}
        excess = sum(idle.values()) - self._limit
        for key, size in idle.items():
            if excess <= 0:
                return
            del self._entries[key]
            excess -= size

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        for values in self._entries.values():
            for value in values:
                if isinstance(value, nn.Parameter):
                    with torch.no_grad():
                        value.data = function(value.data)


def _size(values: tuple[Value, ...]) -> int:
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, nn.Parameter))
