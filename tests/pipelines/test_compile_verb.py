"""`compile_`: one graph per stage, none made twice, none missing unnoticed; taken back without a trace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from diff_es.baselines.stitching import stitched
from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.routing import apply_, compile_, compiled, remove_, routed, uncompile_
from pipelines.prepared import LEVELS, fresh, latents_of, mixed, obs_bank
from pipelines.registry import PIPELINES, STAGES
from pipelines.test_compiled import Graphs

DIT, SDXL = (next(own for own in PIPELINES if own.name == name) for name in ("dit", "sdxl"))
ROW = (1, 2, LEVELS)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.compiler.reset()
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    torch.compiler.reset()


@pytest.mark.parametrize("what", ["denoiser", "blocks"])
def test_after_the_first_run_nothing_is_compiled_and_nothing_runs_without(what: str) -> None:
    pipe, bank, graphs = fresh(DIT), obs_bank(DIT), Graphs()
    with routed(pipe, bank, bank.uniform_allocation().resolve(ROW)):
        expected = latents_of(DIT, pipe)
        with compiled(pipe, what, backend=graphs, fullgraph=True):
            assert torch.allclose(latents_of(DIT, pipe), expected, rtol=1e-5, atol=1e-5)
            made = graphs.count
            assert made == STAGES if what == "denoiser" else made >= STAGES
            with torch._dynamo.config.patch(error_on_recompile=True):
                latents_of(DIT, pipe)
            assert graphs.count == made


def test_more_stages_than_torch_keeps_graphs_by_default() -> None:
    """Torch keeps 8 and would run the others without compiling them; the verb raises the limit."""
    pipe, bank, graphs = fresh(DIT), obs_bank(DIT), Graphs()
    apply_(pipe, bank, bank.uniform_allocation().resolve(ROW))
    with torch._dynamo.config.patch(recompile_limit=2):
        compile_(pipe, backend=graphs)
        latents_of(DIT, pipe)
        assert graphs.count == STAGES
        assert torch._dynamo.config.recompile_limit > 8


def test_compiled_before_routing_and_dense_again_after() -> None:
    pipe, bank = fresh(DIT), obs_bank(DIT)
    dense = latents_of(DIT, pipe)
    compile_(pipe, backend=Graphs())
    apply_(pipe, bank, bank.uniform_allocation().resolve(ROW))
    routed_latents = latents_of(DIT, pipe)
    remove_(pipe)
    uncompile_(pipe)
    assert torch.equal(latents_of(DIT, pipe), dense)
    with routed(pipe, bank, bank.uniform_allocation().resolve(ROW)):
        assert torch.allclose(latents_of(DIT, pipe), routed_latents, rtol=1e-5, atol=1e-5)


def test_taking_it_back_restores_an_own_forward_and_the_blocks() -> None:
    pipe = fresh(SDXL)
    own = pipe.unet.forward
    vars(pipe.unet)["forward"] = own
    compile_(pipe, "blocks", backend=Graphs())
    compiled_blocks = [module for module in pipe.unet.modules() if module._compiled_call_impl is not None]
    assert compiled_blocks
    uncompile_(pipe)
    assert vars(pipe.unet)["forward"] is own
    assert all(module._compiled_call_impl is None for module in compiled_blocks)
    del vars(pipe.unet)["forward"]
    with compiled(pipe, backend=Graphs()):
        pass
    assert "forward" not in vars(denoiser_of(pipe))


def test_what_cannot_be_is_refused() -> None:
    pipe = fresh(DIT)
    with pytest.raises(InputError, match="did you mean 'blocks'"):
        compile_(pipe, "block")
    with pytest.raises(InputError, match="needs the denoiser on a CUDA device"):
        compile_(pipe, cuda_graphs=True)
    with pytest.raises(UnsupportedModelError, match="was not called"):
        uncompile_(pipe)
    compile_(pipe, backend=Graphs())
    with pytest.raises(UnsupportedModelError, match=r"compiled already.*uncompile_"):
        compile_(pipe)
    uncompile_(pipe)
    assert "forward" not in vars(denoiser_of(pipe)), "a refused call left traces"


@pytest.mark.parametrize("what", ["denoiser", "blocks"])
def test_a_stitched_model_is_refused(what: str) -> None:
    """A recording of one stage would be replayed for all."""
    pipe, bank = fresh(DIT), obs_bank(DIT)
    with (
        stitched(pipe, bank, mixed(bank)),
        pytest.raises(UnsupportedModelError, match=r"is stitched.*routed model"),
    ):
        compile_(pipe, what, backend=Graphs())


def test_offload_comes_after_and_is_taken_back_before() -> None:
    """It keeps the forward that it found, and puts that one back after each run."""
    pipe, graphs = fresh(DIT), Graphs()
    dense = latents_of(DIT, pipe)
    compile_(pipe, backend=graphs)
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.allclose(latents_of(DIT, pipe), dense, rtol=1e-5, atol=1e-5)
    assert graphs.count == 1
    with pytest.raises(UnsupportedModelError, match=r"another than compile_.*remove_all_hooks"):
        uncompile_(pipe)
    pipe.remove_all_hooks()
    uncompile_(pipe)
    assert torch.equal(latents_of(DIT, pipe), dense)
    assert graphs.count == 1
    pipe.enable_model_cpu_offload(device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"is offloaded.*remove_all_hooks\(\), then compile_"):
        compile_(pipe, backend=graphs)


@pytest.mark.slow
def test_inductor_gives_what_plain_torch_gives() -> None:
    pipe, bank = fresh(DIT), obs_bank(DIT)
    with routed(pipe, bank, bank.uniform_allocation().resolve(ROW)):
        expected = latents_of(DIT, pipe)
        with compiled(pipe):
            assert (latents_of(DIT, pipe) - expected).abs().max() <= 1e-5
