"""The device memory of mode "stream": one block in which the present stage lies and the next one is copied.

Stages run in a fixed order, the noisiest first, and lie in turn at the bottom and at the top of the block, so that each
has its own address. Where two neighbours are too large for it they overlap, and the overlap, the far end of both, is
copied when the one has ended: the rest of the next stage comes while the present one computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

#: A streamed model takes at most a tenth more memory than the dense one.
_SPARE = 10


def arena_room(dense: int, parked: int) -> int:
    """Return how much of the device the stages' weights may take, in the unit of the arguments.

    Args:
        dense: What the weights of the dense denoiser take.
        parked: The part of it that waits in host memory: the dense weights of pruned layers.
    """
    return parked + dense // _SPARE


def arena_size(stages: Sequence[int], room: int) -> int:
    """Return what the block takes: two neighbouring stages if there is room for them, at least the largest one.

    Args:
        stages: What each stage's weights take, stage 0 first.
        room: What the block may take.
    """
    neighbours = list(pairwise(stages))
    if len(stages) % 2 == 0:
        neighbours.append((stages[0], stages[-1]))  # the next run begins while this one ends
    wanted = max((sum(pair) for pair in neighbours), default=0)
    return max(*stages, min(wanted, room))


class Arena:
    """The block, which stages lie in it, and how much of them is missing."""

    def __init__(self, stages: Sequence[Tensor], room: int, device: torch.device) -> None:
        """Allocate the block; nothing is copied until `enter`.

        Args:
            stages: The weights of each stage in host memory, of one dtype, each of shape (n,).
            room: Entries that the block may have.
            device: Where it is.
        """
        self._stages = stages
        self._memory = torch.empty(arena_size([len(own) for own in stages], room), dtype=stages[0].dtype, device=device)
        self._holds: list[int | None] = [None, None]
        #: Entries at the far end of what each side holds that are not there.
        self._missing = [0, 0]
        self._copies = _Copies(device)
        self._copies.keep(self._memory)

    def close(self) -> None:
        """Wait until nothing is copied any more, so that the memory may be used for something else at once."""
        self._copies.finish()

    def of(self, stage: int) -> Tensor:
        """Return where a stage's weights lie when it runs, shape (n,)."""
        size = len(self._stages[stage])
        return self._memory[len(self._memory) - size :] if self._side(stage) else self._memory[:size]

    def enter(self, stage: int) -> None:
        """Have a stage's weights in place for what is asked of the device from now on, and start copying the next's."""
        side = self._side(stage)
        if self._holds[side] != stage:
            self._holds[side], self._missing[side] = stage, len(self._stages[stage])
        self._copy(stage, self._far_end(stage, self._missing[side]))
        self._missing[side] = 0
        self._copies.wait()
        self._give_up_overlap(1 - side, stage)
        following = (stage - 1) % len(self._stages)
        if self._side(following) != side:
            self._copy_ahead(following, stage)

    def _give_up_overlap(self, side: int, stage: int) -> None:
        """Note what the stage that runs has taken from the one on the other side."""
        held = self._holds[side]
        if held is not None:
            self._missing[side] = max(self._missing[side], self._overlap(held, stage))

    def _copy_ahead(self, stage: int, running: int) -> None:
        """Copy what does not overlap with the stage that runs."""
        side = self._side(stage)
        if self._holds[side] != stage:
            self._holds[side], self._missing[side] = stage, self._overlap(stage, running)
            self._copy(stage, self._near_end(stage, len(self._stages[stage]) - self._missing[side]))

    def _side(self, stage: int) -> int:
        """0 at the bottom, 1 at the top: by the position in sampling order, so that neighbours are on two sides."""
        return (len(self._stages) - 1 - stage) % 2

    def _overlap(self, one: int, other: int) -> int:
        return max(0, len(self._stages[one]) + len(self._stages[other]) - len(self._memory))

    def _near_end(self, stage: int, count: int) -> slice:
        """Entries of a stage at its own side's end of the block."""
        return slice(len(self._stages[stage]) - count, None) if self._side(stage) else slice(0, count)

    def _far_end(self, stage: int, count: int) -> slice:
        """Entries of a stage where the two sides meet."""
        return slice(0, count) if self._side(stage) else slice(len(self._stages[stage]) - count, None)

    def _copy(self, stage: int, part: slice) -> None:
        target = self.of(stage)[part]
        if len(target):
            self._copies.start(target, self._stages[stage][part])


class _Copies:
    """Copies to the device, on a stream of their own where the device has streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def keep(self, memory: Tensor) -> None:
        """Have memory that is freed without more ado kept until the copies to it are done."""
        if self._stream is not None:
            memory.record_stream(self._stream)

    def start(self, target: Tensor, source: Tensor) -> None:
        """Copy after everything that has been asked of the device so far, which may still read the old weights."""
        if self._stream is None:
            target.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def finish(self) -> None:
        """Have the host wait for all copies that were started."""
        if self._stream is not None:
            self._stream.synchronize()

    def wait(self) -> None:
        """Let what is asked of the device from now on begin after all copies that were started."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
