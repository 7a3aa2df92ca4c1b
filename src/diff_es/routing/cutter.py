"""Cut a layer's thin weights out of the dense ones and what a bank holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from diff_es.denoisers import spec_of
from diff_es.routing.slots import Slot, Value, dense_parameters, layer_slots, layer_values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.bank import ThinLayer, ThinSource
    from diff_es.denoisers import Layer
    from diff_es.schedule import Levels

#: (stage, index of the layer, level)
Key: TypeAlias = tuple[int, int, int]


class Cutter:
    """The layers of one denoiser: their slots, their dense values, and thin values by stage and level."""

    def __init__(self, denoiser: nn.Module, source: ThinSource) -> None:
        """Find the slots and read what they hold.

        Args:
            denoiser: The dense model.
            source: Gives thin layers.
        """
        self.source = source
        self.layers: tuple[Layer, ...] = spec_of(denoiser).layers(denoiser, blocks=source.depth)
        self.slots: tuple[tuple[Slot, ...], ...] = tuple(layer_slots(denoiser, layer) for layer in self.layers)
        self.dense: tuple[tuple[Any, ...], ...] = ()
        self._denoiser = denoiser
        self.remember_dense()

    def remember_dense(self) -> None:
        """Read the dense values; the model must be pointing at them."""
        self.dense = tuple(tuple(slot.read() for slot in slots) for slots in self.slots)

    def cut(self, key: Key) -> tuple[Value, ...]:
        """Return the values of a layer's slots at a level ≥ 1 of a stage, cut anew; None stands for the dense one."""
        stage, index, level = key
        layer = self.layers[index]
        dense = self._dense_parameters(index)
        return layer_values(self._denoiser, layer, dense, _beside(self.source.thin(stage, layer, level), dense))

    def write(self, index: int, values: tuple[Value, ...] | None) -> None:
        """Fill the slots of a layer; None stands for the dense value, of one slot or of all."""
        dense = self.dense[index]
        for position, slot in enumerate(self.slots[index]):
            value = None if values is None else values[position]
            slot.write(dense[position] if value is None else value)

    def _dense_parameters(self, index: int) -> dict[str, Tensor]:
        """The layer's dense parameters, wherever the slots point at present."""
        names = dense_parameters(self._denoiser, self.layers[index])
        parked = [v for v, slot in zip(self.dense[index], self.slots[index], strict=True) if slot.kind == "parameter"]
        return dict(zip(names, parked, strict=True))


def keys_of(stage: int, row: Levels) -> list[Key]:
    """Return the keys of the layers that a stage prunes."""
    return [(stage, index, level) for index, level in enumerate(row) if level > 0]


def _beside(thin: ThinLayer, dense: Mapping[str, Tensor]) -> ThinLayer:
    """Copy the tensors of a thin layer to the device of the dense ones, also where they are there already.

    What a bank on disk gives is a view of the mapped file: kept, it would hold the whole file in the process's memory,
    once per tensor, and end the process if the file were cut while the model runs.
    """
    device = next((parameter.device for parameter in dense.values()), None)
    outputs = {name: tensor.to(device, copy=True) for name, tensor in thin.outputs.items()}
    return replace(thin, outputs=outputs)
