"""torch.compile under the router: one graph per stage, none compiled twice, none missing unnoticed.

The back end runs the graphs as they are; what is tested is how often torch makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock

from diff_es.calibration import CalibrationConfig, SamplingSource, calibrate
from diff_es.denoisers import denoiser_of
from diff_es.errors import UnsupportedModelError
from diff_es.fitness import TrajectoryFitness
from diff_es.pruning import BankConfig, build_bank
from diff_es.routing import apply_, remove_, routed
from pipelines.prepared import LEVELS, fresh, latents_of, obs_bank, plan_of, requests_of, settings_of
from pipelines.registry import COMPILED, PIPELINES, STAGES, TinyPipeline

DIT, SDXL, FLUX = (next(own for own in PIPELINES if own.name == name) for name in ("dit", "sdxl", "flux"))
#: In the last stage no head is left.
ROW = (1, 2, LEVELS)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.compiler.reset()
    with torch.no_grad():
        yield
    torch.compiler.reset()


class Graphs:
    """A back end that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, _inputs: Any) -> Callable[..., Any]:
        self.count += 1
        return module.forward  # type: ignore[no-any-return]


@pytest.mark.parametrize("compile_first", [True, False], ids=["compile first", "routing first"])
@pytest.mark.parametrize("own", COMPILED, ids=lambda own: own.name)
def test_a_compiled_forward_has_one_graph_per_stage(own: TinyPipeline, compile_first: bool) -> None:
    pipe, bank, graphs = fresh(own), obs_bank(own), Graphs()
    schedule = bank.uniform_allocation().resolve(ROW)
    with routed(pipe, bank, schedule):
        expected = latents_of(own, pipe)
    denoiser = denoiser_of(pipe)
    if not compile_first:
        apply_(pipe, bank, schedule)
    denoiser.forward = torch.compile(denoiser.forward, backend=graphs, fullgraph=True)
    if compile_first:
        apply_(pipe, bank, schedule)
    assert torch.allclose(latents_of(own, pipe), expected, rtol=1e-4, atol=1e-5)
    assert graphs.count == STAGES
    latents_of(own, pipe)
    assert graphs.count == STAGES, "compiled again in the second run"


def test_stages_of_the_same_levels_share_a_graph() -> None:
    pipe, bank, graphs = fresh(DIT), obs_bank(DIT), Graphs()
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=graphs, fullgraph=True)
    apply_(pipe, bank, bank.uniform_allocation().resolve((2, 1, 2)))
    with torch._dynamo.config.patch(recompile_limit=2):
        latents_of(DIT, pipe)
    assert graphs.count == 2


def test_more_stages_than_graphs_are_an_error_and_not_a_slow_run() -> None:
    pipe, bank = fresh(DIT), obs_bank(DIT)
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=Graphs())
    apply_(pipe, bank, bank.uniform_allocation().resolve(ROW))
    with (
        torch._dynamo.config.patch(recompile_limit=2),
        pytest.raises(UnsupportedModelError, match=r"need 3 compiled graphs, and torch keeps 2.*recompile_limit = 3"),
    ):
        latents_of(DIT, pipe)


def test_blocks_compiled_one_by_one_have_one_graph_per_shape() -> None:
    """Regional compilation: blocks of a class share their graphs, stages and blocks of the same levels too."""
    pipe, bank, graphs = fresh(SDXL), obs_bank(SDXL), Graphs()
    schedule = bank.uniform_allocation().resolve((1, 2, 3))
    with routed(pipe, bank, schedule):
        expected = latents_of(SDXL, pipe)
        pipe.unet.compile_repeated_blocks(backend=graphs, fullgraph=True)
        assert torch.allclose(latents_of(SDXL, pipe), expected, rtol=1e-4, atol=1e-5)
        first = graphs.count
        latents_of(SDXL, pipe)
        assert graphs.count == first > 0
        with (
            torch._dynamo.config.patch(recompile_limit=2),
            pytest.raises(UnsupportedModelError, match="need 3 compiled graphs"),
        ):
            latents_of(SDXL, pipe)


def test_compiled_blocks_of_several_widths_have_graphs_of_their_own() -> None:
    """They share their class's code, and with it torch's limit."""
    pipe, graphs = fresh(SDXL), Graphs()
    kinds = {f"{side}_block_types": (f"CrossAttn{side.title()}Block2D",) * 2 for side in ("down", "up")}
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config, **kinds, attention_head_dim=(LEVELS, LEVELS)).eval()
    source = SamplingSource(requests_of(pipe), settings_of(SDXL), batch_size=1)
    plan = plan_of(pipe)
    stats = calibrate(pipe, source, CalibrationConfig(plan, collect=("second_moment",)))
    bank = build_bank(pipe, stats, plan, BankConfig("obs", LEVELS))
    router = apply_(pipe, bank, bank.uniform_allocation().resolve((1, 2, 3)))
    blocks = [module for module in pipe.unet.modules() if isinstance(module, BasicTransformerBlock)]
    for block in blocks:
        block.compile(backend=graphs)
    latents_of(SDXL, pipe)
    needed = router._accelerators._graphs_of_blocks(router._planned())
    assert len({block.norm1.weight.shape for block in blocks}) == 2
    assert needed == {"BasicTransformerBlock": graphs.count} == {"BasicTransformerBlock": 2 * STAGES}


def test_a_model_compiled_as_a_whole_is_refused() -> None:
    """The router would lie inside the graph, where torch may not look for hooks that came later."""
    pipe, bank = fresh(DIT), obs_bank(DIT)
    schedule = bank.uniform_allocation().resolve(ROW)
    plain = pipe.transformer
    pipe.transformer = torch.compile(plain, backend=Graphs())
    with pytest.raises(UnsupportedModelError, match=r"pipe\.transformer = pipe\.transformer\._orig_mod"):
        apply_(pipe, bank, schedule)
    pipe.transformer = plain
    apply_(pipe, bank, schedule)
    plain.compile(backend=Graphs())
    with pytest.raises(UnsupportedModelError, match="puts the router into the graph"):
        latents_of(DIT, pipe)
    remove_(pipe)
    with pytest.raises(UnsupportedModelError, match="puts the router into the graph"):
        apply_(pipe, bank, schedule)


def test_a_search_runs_the_plain_model() -> None:
    pipe, bank = fresh(DIT), obs_bank(DIT)
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=Graphs())
    with pytest.raises(UnsupportedModelError, match="shapes of every schedule"):
        TrajectoryFitness(pipe, bank, requests_of(pipe), bank.uniform_allocation(), sampler=settings_of(DIT))
