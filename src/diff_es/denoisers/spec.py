"""Facts about an architecture: what can be pruned, what a pruned layer must change, and how to call the denoiser.

Declarative records only. Nothing here decides what goes, and nothing changes a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diff_es.denoisers.calls import named_call
from diff_es.denoisers.scheduled import scheduled_timestep
from diff_es.denoisers.timestep import is_one_entry_of_many, read_timestep
from diff_es.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from diff_es.denoisers.layers import Layer


@dataclass(frozen=True)
class TimestepUnits:
    """The units in which the denoiser gets its timestep: train units (0…T) are origin + factor × value."""

    factor: float = 1.0
    origin: float = 0.0

    def to_train(self, value: float) -> float:
        """Convert what reaches the denoiser to train units."""
        return self.origin + self.factor * value

    def from_train(self, timesteps: Tensor) -> Tensor:
        """Convert train units to what reaches the denoiser, float64."""
        return (timesteps.double() - self.origin) / self.factor


#: As it is; as a share of 1,000 train units; as the share that is done, 0 at pure noise.
TRAIN_UNITS, SHARE, SHARE_DONE = TimestepUnits(), TimestepUnits(1000.0), TimestepUnits(-1000.0, 1000.0)


@dataclass(frozen=True)
class DenoiserSpec:
    """Everything the other rooms need to know about one denoiser class.

    Attributes:
        architecture: Name of the diffusers class.
        width_layers: denoiser → its attention and FFN layers, in the order in which they run.
        blocks: denoiser → its droppable blocks, in the order in which they run.
        left_alone: (part, reason) for everything with weights that is never pruned. A part is what lies in, or is, a
            module or parameter in whose name its own occurs ("norm": `norm1.linear`, `ffn_norm2`); the first counts.
        timestep_argument: Name of the forward argument that holds the timestep.
        units: denoiser → the units in which it gets its timestep.
        latents_argument: Name of the forward argument that holds the noisy latents, one row per sample.
        pack: latents (N, C, h, w) → what the denoiser takes (FLUX: patches as tokens); None where it takes something
            else than still images, and calibration needs `source: sampling`.
        unbatched: Names of arguments that hold no rows per sample (position ids).
    """

    architecture: str
    width_layers: Callable[[nn.Module], tuple[Layer, ...]]
    blocks: Callable[[nn.Module], tuple[Layer, ...]]
    left_alone: tuple[tuple[str, str], ...]
    timestep_argument: str = "timestep"
    units: Callable[[nn.Module], TimestepUnits] = lambda _: TRAIN_UNITS
    latents_argument: str = "hidden_states"
    pack: Callable[[Tensor], Tensor] | None = lambda latents: latents
    unbatched: tuple[str, ...] = ()

    def layers(self, denoiser: nn.Module, *, blocks: bool) -> tuple[Layer, ...]:
        """Return the blocks (depth pruning) or the attention and FFN layers (width pruning)."""
        return self.blocks(denoiser) if blocks else self.width_layers(denoiser)

    def timestep(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """Return the timestep of a denoiser call, in train units; the device is not waited for if that can be helped.

        That of a pipeline's step is its scheduler's, also where the denoiser gets it rounded to half precision.

        Raises:
            UnsupportedModelError: the call carries no timestep.
        """
        call = named_call(denoiser, args, kwargs)
        if self.timestep_argument not in call:
            raise UnsupportedModelError(f"{self.architecture} was called without {self.timestep_argument!r}.")
        value = call[self.timestep_argument]
        if isinstance(value, Tensor) and not is_one_entry_of_many(value):
            scheduled = scheduled_timestep(denoiser)
            if scheduled is not None:
                return read_timestep(scheduled)
        return self.units(denoiser).to_train(read_timestep(value))
