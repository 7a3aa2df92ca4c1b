"""Timesteps read on the host. What is special to a GPU is in tests/gpu; the bookkeeping is the same on a CPU."""

from __future__ import annotations

import pytest
import torch

from diff_es.denoisers import timestep
from diff_es.denoisers.timestep import read_timestep


@pytest.fixture
def off_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tensors in host memory taken for those of a device."""
    monkeypatch.setattr(timestep, "_READ_AS_THEY_ARE", ())


@pytest.mark.parametrize("value", [951, 951.0, torch.tensor(951), torch.full((3,), 951.0), torch.tensor([0.0, 951.0])])
def test_numbers_and_tensors(value: object) -> None:
    assert read_timestep(value) == 951


@pytest.mark.usefixtures("off_host")
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
def test_entries_of_a_schedule_are_found_by_their_place(dtype: torch.dtype) -> None:
    timesteps = torch.linspace(950, 0, 20).to(dtype)
    for entry in timesteps:
        expected = float(entry)
        assert read_timestep(entry) == expected
        assert read_timestep(entry.expand(4)) == expected
        assert read_timestep(entry[None].expand(2)) == expected
    part = timesteps[7:]
    assert [read_timestep(entry) for entry in part] == [float(value) for value in timesteps[7:]]


@pytest.mark.usefixtures("off_host")
def test_a_schedule_that_is_written_to_is_read_again() -> None:
    timesteps = torch.tensor([3.0, 2.0, 1.0])
    assert read_timestep(timesteps[1]) == 2
    timesteps += 10
    assert read_timestep(timesteps[1]) == 12
    timesteps[1] = 5
    assert read_timestep(timesteps[1]) == 5


@pytest.mark.usefixtures("off_host")
def test_a_new_schedule_is_not_mistaken_for_an_old_one() -> None:
    """More schedules than are remembered come and go; their memory may be used again."""
    for start in range(50):
        timesteps = torch.arange(start, start + 4, dtype=torch.float32)
        assert [read_timestep(entry) for entry in timesteps] == [start, start + 1, start + 2, start + 3]
        del timesteps


@pytest.mark.usefixtures("off_host")
def test_an_entry_of_a_large_tensor_is_read_alone() -> None:
    large = torch.arange(2**16 + 1, dtype=torch.float32)
    assert not timestep.is_one_entry_of_many(large[5])
    assert read_timestep(large[5]) == 5
    assert timestep.is_one_entry_of_many(large[:10].clone()[5])


@pytest.mark.usefixtures("off_host")
def test_what_is_no_single_entry_is_read_as_it_is() -> None:
    timesteps = torch.tensor([3.0, 2.0, 1.0])
    assert read_timestep(timesteps) == 3
    assert read_timestep(timesteps[1:]) == 2
    assert read_timestep(timesteps[2] / 1000) == pytest.approx(0.001)
    with torch.inference_mode():
        entry = torch.tensor([3.0, 2.0])[1]
        assert read_timestep(entry) == 2
        entry.fill_(7)
        assert read_timestep(entry) == 7
