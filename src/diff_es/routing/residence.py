"""Where the weights of the stages live while others run: what every memory mode has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from diff_es.schedule import PruningSchedule

#: "resident": the thin weights of all stages stay on the device. "stream": those of two stages do, the next ones being
#: copied from host memory while a stage runs; the dense weights of pruned layers wait in host memory. "gather": only
#: the running stage's, cut out of the dense backbone at a stage switch.
Mode: TypeAlias = Literal["resident", "stream", "gather"]


class Addresses:
    """Stands for where the stages' weights lie: another object as soon as they lie elsewhere.

    What was made for one is kept by it, weakly, and goes when nothing lies there any more.
    """


class Residence(Protocol):
    """Keeps the weights of one schedule's stages, and points the model at them."""

    @property
    def addresses(self) -> Addresses | None:
        """Where each stage's weights lie whenever it runs, as CUDA graphs need it; None if each switch makes them."""

    def prepare(self, schedule: PruningSchedule) -> None:
        """Make ready for a schedule; the model is dense."""

    def enter(self, stage: int | None) -> None:
        """Point every layer at the weights of a stage, or at the dense ones (None)."""

    def detach(self) -> None:
        """Take out of the (dense) model what must not be converted with it."""

    def convert(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply to the parked weights what was just applied to the rest of the model (`.to`, `.half`, offload)."""

    def release(self) -> None:
        """Give the dense model back all that it had."""
