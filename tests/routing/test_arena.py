"""The block of device memory of mode "stream": what lies in it, what it takes, and what is copied when."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diff_es.routing.arena import Arena, arena_room, arena_size

CPU = torch.device("cpu")
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6)


def stages_of(sizes: list[int]) -> list[torch.Tensor]:
    """Weights that tell their stage and their place."""
    return [100.0 * stage + torch.arange(size) for stage, size in enumerate(sizes)]


def counted(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of entries of every copy."""
    copied: list[int] = []
    start = arena._copies.start

    def counting(target: torch.Tensor, source: torch.Tensor) -> None:
        copied.append(len(source))
        start(target, source)

    monkeypatch.setattr(arena._copies, "start", counting)
    return copied


@given(sizes=SIZES, spare=st.integers(0, 20), data=st.data())
def test_a_stage_has_all_its_weights_while_it_runs(sizes: list[int], spare: int, data: st.DataObject) -> None:
    """In whatever order stages are entered, and however little room there is."""
    stages = stages_of(sizes)
    arena = Arena(stages, spare, CPU)
    order = st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=12)
    for stage in data.draw(order):
        arena.enter(stage)
        torch.testing.assert_close(arena.of(stage), stages[stage], rtol=0, atol=0)


@given(sizes=SIZES, spare=st.integers(0, 20))
def test_the_block_takes_what_is_allowed_or_its_largest_stage(sizes: list[int], spare: int) -> None:
    size = arena_size(sizes, spare)
    assert size == len(Arena(stages_of(sizes), spare, CPU)._memory)
    assert max(sizes) <= size <= max(spare, *sizes)
    assert size <= 2 * max(sizes)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([7], 7),
        ([4, 6], 10),
        # The last of three and the first of the next run would lie on the same side: they are no neighbours.
        ([6, 1, 6], 7),
        ([6, 1, 2, 5], 11),
    ],
)
def test_with_room_two_neighbours_lie_side_by_side(stages: list[int], expected: int) -> None:
    assert arena_size(stages, 100) == expected


def test_a_streamed_model_takes_at_most_a_tenth_more() -> None:
    """Dense 1,000, of which 700 are of pruned layers; the stages keep nearly all of them."""
    dense, parked = 1000, 700
    assert dense - parked + arena_size([690, 680, 700, 690], arena_room(dense, parked)) == 1100


def test_every_weight_is_copied_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [5, 8, 6, 9, 7]
    arena = Arena(stages_of(sizes), 11, CPU)
    copied = counted(arena, monkeypatch)
    for stage in reversed(range(5)):
        arena.enter(stage)
    assert sum(copied) == sum(sizes)


def test_at_a_switch_only_the_overlap_is_left_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena(stages_of([5, 8, 6]), 11, CPU)
    arena.enter(2)
    copied = counted(arena, monkeypatch)
    arena.enter(1)  # 6 and 8 in a block of 11: 3 had to wait, and so have 2 of the 5 that come next
    assert copied == [3, 3]


def test_with_room_nothing_is_left_to_copy_at_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena(stages_of([5, 8, 6, 7]), 100, CPU)
    arena.enter(3)
    copied = counted(arena, monkeypatch)
    for stage, ahead in ((2, 8), (1, 5), (0, 7)):
        arena.enter(stage)
        assert copied.pop() == ahead
        assert copied == []


def test_stages_keep_their_addresses() -> None:
    arena = Arena(stages_of([5, 8, 6]), 11, CPU)
    before = [arena.of(stage).data_ptr() for stage in range(3)]
    for stage in (2, 1, 0, 2):
        arena.enter(stage)
    assert [arena.of(stage).data_ptr() for stage in range(3)] == before
