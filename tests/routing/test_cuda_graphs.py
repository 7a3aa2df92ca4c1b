"""What a CUDA graph belongs to, and when none is used. Recording needs a GPU; all of this does not."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline

from diff_es.bank import Bank
from diff_es.denoisers import ROUTER
from diff_es.routing import Mode, Router, apply_, install_, remove_, routed
from diff_es.routing.cuda_graphs import CudaGraphs, _plainly
from diff_es.schedule import PruningSchedule
from support import call_at, mixed_levels, timestep_in


@pytest.fixture
def schedule(bank: Bank) -> PruningSchedule:
    return bank.uniform_allocation().resolve(mixed_levels(bank))


class TestWhatCudaGraphsAreToldApartBy:
    """Recording needs a GPU; what a recording belongs to does not. A replay with other weights gives wrong images."""

    @staticmethod
    def weights(graphs: CudaGraphs, pipe: DiTPipeline) -> tuple[tuple[Any, int | None], list[int]]:
        """What a recording would belong to, and where the weights really are."""
        return graphs._weights(), [parameter.data_ptr() for parameter in pipe.transformer.parameters()]

    def test_dense_weights_that_a_stream_has_moved(
        self, pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule
    ) -> None:
        alive = [parameter.data for parameter in pipe.transformer.parameters()]
        graphs = CudaGraphs(pipe.transformer, pipe.transformer.forward)
        key, places = self.weights(graphs, pipe)
        assert self.weights(graphs, pipe) == (key, places)
        with routed(pipe, bank, schedule, mode="stream"):
            pass
        new_key, new_places = self.weights(graphs, pipe)
        assert new_places[0] == places[0], "the first parameter is of no pruned layer"
        assert new_places != places and new_key != key
        graphs._recordings.setdefault(new_key[0], Any)
        moved = new_key[0]
        del key, new_key
        pipe.to(torch.float64)
        assert self.weights(graphs, pipe)[0][0] is not moved
        del moved
        assert len(graphs._recordings) == 0, "a recording of weights that have moved is kept"
        assert len(alive) == len(places)

    def test_the_stages_of_a_copy(self, pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
        router = apply_(pipe, bank, schedule, mode="stream")
        twin = copy.deepcopy(pipe)
        assert vars(twin.transformer)[ROUTER].addresses is not router.addresses
        graphs = CudaGraphs(twin.transformer, twin.transformer.forward)
        alive: list[Any] = []
        seen: dict[object, list[int]] = {}
        for stage in (2, 1, 0, 2):
            twin.transformer(**call_at(timestep_in(stage)))
            key, places = self.weights(graphs, twin)
            alive += list(twin.transformer.parameters())
            assert seen.setdefault(key, places) == places

    @pytest.mark.parametrize("mode", ["resident", "stream"])
    def test_another_schedule_device_or_dtype(self, pipe: DiTPipeline, bank: Bank, mode: Mode) -> None:
        router = apply_(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3)), mode=mode)
        found = [router.addresses]
        router.set_schedule(bank.uniform_allocation().resolve((3, 2, 1)))
        found.append(router.addresses)
        pipe.to(torch.float64)
        found.append(router.addresses)
        assert len({id(own) for own in found}) == 3

    def test_what_lies_nowhere_any_more_is_forgotten(self, pipe: DiTPipeline, bank: Bank) -> None:
        """An offloaded or streamed model moves again and again, and its recordings must not pile up."""
        router = apply_(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3)))
        graphs = CudaGraphs(pipe.transformer, pipe.transformer.forward)
        for _ in range(3):
            addresses, _ = graphs._weights()
            graphs._recordings.setdefault(addresses, Any)
            del addresses
            pipe.to(torch.float64).to(torch.float32)
        router.set_schedule(bank.uniform_allocation().resolve((3, 2, 1)))
        assert len(graphs._recordings) == 0


def test_other_addresses_are_another_object(pipe: DiTPipeline, bank: Bank, schedule: PruningSchedule) -> None:
    """Streamed weights get other addresses whenever the model is routed; resident ones stay where they are."""
    for mode, different in (("resident", 1), ("stream", 2)):
        router = Router(pipe.transformer, bank, mode)
        router.set_schedule(schedule)
        seen: dict[object, int] = {}
        kept = []
        for _ in range(2):
            install_(pipe.transformer, router)
            router.point_at(1)
            weight = pipe.transformer.transformer_blocks[0].ff.net[2].weight
            kept.append(weight)  # alive, so that its memory is not used again
            assert seen.setdefault(router.addresses, weight.data_ptr()) == weight.data_ptr()
            remove_(pipe)
        assert len(seen) == different


class TestCallsWithoutAGraph:
    @staticmethod
    def graphs(pipe: DiTPipeline, monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
        def recorder(self: CudaGraphs) -> None:
            raise AssertionError("it would record")

        monkeypatch.setattr(CudaGraphs, "_recorder", recorder)
        return CudaGraphs(pipe.transformer, pipe.transformer.forward)

    def test_gradients_flow(self, pipe: DiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        graphs, call = self.graphs(pipe, monkeypatch), call_at(timestep_in(1))
        with torch.enable_grad():
            graphs(**call).sample.sum().backward()
        assert pipe.transformer.proj_out_2.weight.grad is not None
        with torch.no_grad(), pytest.raises(AssertionError, match="would record"):
            graphs(**call)

    def test_an_offloaded_model(
        self, pipe: DiTPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It comes to other addresses in every run."""
        graphs, call = self.graphs(pipe, monkeypatch), call_at(timestep_in(1))
        with torch.no_grad(), caplog.at_level(logging.WARNING):
            expected = pipe.transformer(**call).sample
            pipe.enable_model_cpu_offload(device="cpu")
            for _ in range(2):
                assert torch.equal(graphs(**call).sample, expected)
        assert caplog.text.count("runs without CUDA graphs") == 1


def test_what_is_recorded_holds_whatever_the_first_call_was_made_in() -> None:
    """A graph reads its inputs and casts its weights in later calls too."""
    with torch.inference_mode():
        inputs = torch.zeros(3)
        with _plainly():
            assert not torch.is_grad_enabled() and not torch.is_autocast_cache_enabled()
            own = inputs.to("cpu", copy=True)
    assert not own.is_inference() and torch.is_autocast_cache_enabled()
    own.copy_(torch.ones(3))
