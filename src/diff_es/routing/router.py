"""USE stage weights at inference: one hook on the denoiser finds the stage and points the layers at its weights.

The router lives on the denoiser and is reached through module-level functions, never through closures: a deep copy
of a routed model then has a router of its own instead of steering the original. It is a plain forward pre-hook of
PyTorch, which CPU offload in either order leaves alone, and which stays outside the graph of a compiled model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from diff_es.denoisers import spec_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.registry import suggest
from diff_es.routing.accelerators import Accelerators
from diff_es.routing.cutter import Cutter
from diff_es.routing.gather import Gather
from diff_es.routing.residence import Addresses, Mode, Residence
from diff_es.routing.resident import Resident
from diff_es.routing.stream import Stream

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.bank import ThinSource
    from diff_es.denoisers import Layer
    from diff_es.schedule import PruningSchedule


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Within, new weights are plain: under torch.inference_mode they could be neither written nor moved later on."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield


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
            InputError: no such mode.
            UnsupportedModelError: a cache, offload or compilation of the denoiser that does not go with routing.
        """
        self.source = source
        self.mode = mode
        self.stage: int | None = None
        self.spec = spec_of(denoiser)
        self.denoiser = denoiser
        self._cutter = Cutter(denoiser, source)
        self._residence = _residence(mode, self._cutter, denoiser, cache_bytes)
        self._accelerators = Accelerators(denoiser, self.spec, self.layers, depth=source.depth)
        self._accelerators.check()
        self._schedule: PruningSchedule | None = None
        #: The stage whose first call has been prepared for; a stage may be pointed at before it begins.
        self._begun: int | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that are pruned, in the order of the denoiser."""
        return self._cutter.layers

    @property
    def addresses(self) -> Addresses | None:
        """Where the stages' weights lie; None if a stage's are made anew whenever it begins."""
        return self._residence.addresses

    @_plain_tensors()
    def set_schedule(self, schedule: PruningSchedule) -> None:
        """Route by another schedule from the next denoiser call on.

        Raises:
            InputError: a schedule of other layers, another number of stages or another H.
        """
        check_schedule(self.source, schedule)
        self.point_at(None)
        self._schedule = None
        self._residence.prepare(schedule)
        self._schedule = schedule

    def on_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Point at the stage of this denoiser call.

        Raises:
            UnsupportedModelError: a cache, offload or compilation of the denoiser that cannot go on in this stage.
        """
        stage = self.source.plan.stage_at(self.spec.timestep(self.denoiser, args, kwargs))
        if stage != self._begun:
            # Timesteps fall, and stages with them: one that is noisier than the last is of another run.
            first = self._begun is None or stage > self._begun
            self._accelerators.begin_stage_(self._planned(), first=first)
            self._begun = stage
        if stage != self.stage:
            self.point_at(stage)

    @_plain_tensors()
    def point_at(self, stage: int | None) -> None:
        """Point every layer at the weights of a stage, or at the dense ones (None)."""
        if stage is None:
            self._begun = None
        else:
            self._planned()
        # A switch that fails may leave layers of two stages: the next call must not take it for done.
        self.stage = None
        self._residence.enter(stage)
        self.stage = stage

    def stand_by(self) -> None:
        """Make the model ready for its first call; where dense weights must not stay on the device, they leave it."""
        if self.mode == "stream":
            self.point_at(self.source.plan.num_stages - 1)

    @_plain_tensors()
    def release(self) -> None:
        """Leave the dense model behind, all of its weights where they were."""
        self.point_at(None)
        self._residence.release()

    @contextmanager
    def converted(self, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Convert the parked weights as the model is converted within the block (`.to`, `.half`, offload)."""
        stage = self.stage
        self.point_at(None)
        self._residence.detach()
        try:
            yield
        except BaseException:
            self.point_at(None)  # what was taken out is there again
            raise
        with _plain_tensors():
            self._residence.convert(function)
        self._cutter.remember_dense()
        self.point_at(stage)

    def _planned(self) -> PruningSchedule:
        if self._schedule is None:
            raise UnsupportedModelError(
                "The router has no schedule, because the last set_schedule failed: set one, or call remove_(pipe)."
            )
        return self._schedule

    def __deepcopy__(self, memo: dict[int, Any]) -> Router:
        """A copy enters its first stage anew."""
        twin = memo[id(self)] = Router.__new__(Router)
        vars(twin).update(copy.deepcopy({**vars(self), "stage": None, "_begun": None}, memo))
        return twin

    def __reduce__(self) -> NoReturn:
        raise UnsupportedModelError(
            "A routed denoiser cannot be pickled: share the artefact that diff_es.save writes, and load it there; or "
            "call remove_(pipe) first."
        )


def check_schedule(source: ThinSource, schedule: PruningSchedule) -> None:
    """Check that a schedule is one of these weights.

    Raises:
        InputError: a schedule of other layers, another number of stages or another H.
    """
    if schedule.layers != source.layers:
        raise InputError("The schedule names other layers than the weights; it belongs to another bank.")
    if schedule.num_stages != source.plan.num_stages:
        raise InputError(f"The schedule has {schedule.num_stages} stages, the weights {source.plan.num_stages}.")
    if schedule.num_levels != source.num_levels:
        raise InputError(
            f"The schedule has H={schedule.num_levels} levels, the weights H={source.num_levels}: a level of one "
            "removes another share than the same level of the other."
        )


def _residence(mode: Mode, cutter: Cutter, denoiser: nn.Module, cache_bytes: int) -> Residence:
    if mode == "resident":
        return Resident(cutter, cache_bytes)
    if mode == "gather":
        return Gather(cutter)
    if mode == "stream":
        return Stream(cutter, denoiser)
    raise InputError(f"mode={mode!r}: {suggest(mode, ('resident', 'stream', 'gather'))}")
