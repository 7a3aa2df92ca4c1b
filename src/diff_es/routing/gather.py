"""Memory mode "gather": the running stage's weights alone, cut out of the dense backbone at each switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from diff_es.routing.cutter import Cutter, keys_of

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.schedule import Levels, PruningSchedule


class Gather:
    """Cuts at each stage switch, so that a switch costs time and no memory is held beyond one stage."""

    addresses = None

    def __init__(self, cutter: Cutter) -> None:
        """Start without a schedule.

        Args:
            cutter: Cuts thin layers.
        """
        self._cutter = cutter
        self._rows: tuple[Levels, ...] = ()

    def prepare(self, schedule: PruningSchedule) -> None:
        """Take the levels; nothing is cut yet."""
        self._rows = schedule.layer_levels

    def enter(self, stage: int | None) -> None:
        """Cut the stage's weights; the old stage's go before the new ones are cut, which keeps the peak low."""
        for index in range(len(self._cutter.layers)):
            self._cutter.write(index, None)
        for key in [] if stage is None else keys_of(stage, self._rows[stage]):
            self._cutter.write(key[1], self._cutter.cut(key))

    def detach(self) -> None:
        """Nothing: the dense weights are converted with the model."""

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Nothing is parked."""

    def release(self) -> None:
        """Nothing to do: the dense weights never left."""
