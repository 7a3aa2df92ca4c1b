"""Settings and models that cannot be used."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
    WanPipeline,
)
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from bad_input.lab import Lab
from bad_input.table import REFUSED, case
from diff_es.pipelines import resolve_device
from diff_es.routing import compile_, is_routed, load, remove_
from diff_es.run import inspect_model
from diff_es.schedule import ScheduleSpace
from families.transformers import wan
from support import tiny_pipe


@case(
    "unknown pruner",
    REFUSED,
    "Unknown pruner 'obss': did you mean 'obs'? Known: …",
)
def _(lab: Lab) -> object:
    return lab.refused(pruning={"method": "obss"})


@case("unknown metric", REFUSED, "Unknown metric 'ssimm': did you mean 'ssim'? Known: …")
def _(lab: Lab) -> object:
    return lab.refused(search={"metric": "ssimm"})


@case("unknown zoo model", REFUSED, "Unknown zoo model 'fashion-dti': did you mean 'fashion-dit'? Known: …")
def _(lab: Lab) -> object:
    return lab.refused(model="zoo:fashion-dti")


@case(
    "more stages than steps",
    REFUSED,
    "num_stages=7 does not fit a sampler of 6 steps: every stage needs at least one step. Use 1 to 6 stages, or more "
    "inference steps.",
)
def _(lab: Lab) -> object:
    return lab.refused(stages=7)


@case(
    "DeepCache on a transformer",
    REFUSED,
    "DeepCache, interval 2 is for U-Nets, and DiTPipeline has none: remove it.",
)
def _(lab: Lab) -> object:
    return lab.refused(evaluation={"deep_cache": 2})


@case(
    "First Block Cache on a model that diffusers has none for",
    REFUSED,
    "First Block Cache, threshold 0.1: diffusers has no cache for DiTTransformer2DModel; remove it.",
)
def _(lab: Lab) -> object:
    return lab.refused(evaluation={"first_block_cache": 0.1})


@case(
    "both caches at once",
    REFUSED,
    "evaluation.deep_cache=2 is for U-Nets and evaluation.first_block_cache=0.1 for transformers; remove one of the "
    "two.",
)
def _(lab: Lab) -> object:
    return lab.refused(evaluation={"deep_cache": 2, "first_block_cache": 0.1})


@case(
    "infeasible budget",
    REFUSED,
    "sparsity=0.9 is infeasible: with every stage at its highest level (3, 3, 3) of H=4 only 0.7500 can be removed. "
    "Lower sparsity or raise max_levels.",
)
def _(lab: Lab) -> object:
    return ScheduleSpace((2, 2, 2), 4, 0.9, (3, 3, 3))


@case("`cuda` without CUDA", REFUSED, "device='cuda', but no CUDA device is available; use cpu.")
def _(lab: Lab) -> object:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    return lab.refused(device="cuda")


@case("a device of another kind", REFUSED, "device='mps' is not supported; use auto, cpu or cuda.")
def _(lab: Lab) -> object:
    return resolve_device("mps")


@case(
    "a model that is no pipeline",
    REFUSED,
    "model='…' cannot be loaded as a diffusers pipeline: … Give zoo:NAME (fashion-dit, fashion-sdxl, fashion-flux), "
    "a folder written by save_pretrained, or a Hub id.",
)
def _(lab: Lab) -> object:
    return lab.refused(model=str(lab.folder))


@case("a model whose weights are cut off", REFUSED, "model='…' cannot be loaded as a diffusers pipeline: …")
def _(lab: Lab) -> object:
    shutil.copytree(lab.model, lab.folder / "model")
    weights = lab.folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return lab.refused(model=str(lab.folder / "model"))


@case(
    "a pipeline without a VAE, which works on pixels",
    REFUSED,
    "DiTPipeline has no VAE (pipe.vae), and what a search compares are its inputs and outputs: choose a latent "
    "diffusion model.",
)
def _(lab: Lab) -> object:
    pipe = tiny_pipe()
    pipe.register_modules(vae=None)
    return lab.refused_for(pipe)


@case(
    "unsupported denoiser",
    REFUSED,
    "The denoiser UNet2DModel is not supported: did you mean 'UNet2DConditionModel'? Known: … To add it, register a "
    "DenoiserSpec in diff_es.denoisers.specs.",
)
def _(lab: Lab) -> object:
    channels: dict[str, Any] = {"block_out_channels": (4, 4), "norm_num_groups": 1, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=8, **channels, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(lab.folder / "unet")
    return lab.refused(model=str(lab.folder / "unet"))


@case(
    "two denoisers",
    REFUSED,
    "WanPipeline has a second denoiser, transformer_2, which would stay dense: use a model with one (Wan 2.1, or the "
    "5B model of Wan 2.2). To have the first make all steps, which it may not be trained for, set "
    "pipe.transformer_2 = None and call pipe.register_to_config(boundary_ratio=None).",
)
def _(_: Lab) -> object:
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = WanPipeline(**parts, scheduler=scheduler, transformer=wan(), transformer_2=wan(), boundary_ratio=0.9)
    return inspect_model(pipe)


@case(
    "fused q, k, v",
    REFUSED,
    "transformer_blocks.0.attn1 has fused q, k, v: call unfuse_qkv_projections() first, or load the pipeline again "
    "where that leaves the fused copies behind (U-Nets, PixArt, SD3, HunyuanDiT).",
)
def _(lab: Lab) -> object:
    pipe = tiny_pipe()
    with torch.no_grad():
        pipe.transformer.transformer_blocks[0].attn1.fuse_projections()
    return inspect_model(pipe)


@case(
    "an IP-Adapter",
    REFUSED,
    "transformer_blocks.1.attn1 has an IP-Adapter (IPAdapterAttnProcessor2_0), whose projections know nothing of "
    "removed heads: call pipe.unload_ip_adapter() first.",
)
def _(lab: Lab) -> object:
    pipe = tiny_pipe()
    pipe.transformer.transformer_blocks[1].attn1.set_processor(IPAdapterAttnProcessor2_0(16, 16))
    return inspect_model(pipe)


@case(
    "group offload to disk",
    REFUSED,
    "The denoiser is offloaded in groups with offload_to_disk_path, which knows only the weights that were there at "
    "first, and those of a routed one change from stage to stage: call enable_group_offload without it, or "
    "pipe.enable_model_cpu_offload().",
)
def _(lab: Lab) -> object:
    pipe = tiny_pipe()
    apply_group_offloading(
        pipe.transformer,
        torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(lab.folder),
    )
    return inspect_model(pipe)


class OnlyDecoder(DiffusionPipeline):  # type: ignore[misc]
    """A pipeline with nothing to prune."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae)


@case("pipeline without denoiser", REFUSED, "OnlyDecoder has no denoiser: neither `transformer` nor `unet`.")
def _(lab: Lab) -> object:
    return inspect_model(OnlyDecoder(tiny_pipe().vae))


@case(
    "a routed model routed again",
    "refused; the model stays routed as it was",
    "The denoiser is routed: call diff_es.remove_(pipe) first.",
)
def _(lab: Lab) -> None:
    pipe = tiny_pipe()
    load(lab.artefact, pipe)
    try:
        load(lab.artefact, pipe)
    finally:
        remove_(pipe)


@case(
    "a memory limit that no memory mode fits",
    REFUSED,
    "memory_limit=100 bytes (0.00 GiB): the weights take at least … GiB (mode 'gather'). Allow or free more, use "
    "a smaller dtype, or offload the model (pipe.enable_model_cpu_offload()).",
)
def _(lab: Lab) -> None:
    pipe = tiny_pipe()
    try:
        load(lab.artefact, pipe, memory_limit=100)
    finally:
        assert not is_routed(pipe)


@case(
    "a memory limit for a mode that is fixed",
    REFUSED,
    "memory_limit=100 chooses among modes: give mode=\"auto\", not 'gather'.",
)
def _(lab: Lab) -> None:
    load(lab.artefact, tiny_pipe(), mode="gather", memory_limit=100)


@case("a memory mode that is none", REFUSED, "mode='streams': did you mean 'stream'? Known: gather, resident, stream.")
def _(lab: Lab) -> None:
    load(lab.artefact, tiny_pipe(), mode="streams")  # type: ignore[arg-type]


@case("a denoiser compiled twice", REFUSED, "The denoiser is compiled already: call uncompile_(pipe) first.")
def _(_: Lab) -> None:
    pipe = tiny_pipe()
    compile_(pipe)
    compile_(pipe)


@case(
    "CUDA graphs without CUDA",
    REFUSED,
    "cuda_graphs=True needs the denoiser on a CUDA device, and it is on cpu.",
)
def _(_: Lab) -> None:
    compile_(tiny_pipe(), cuda_graphs=True)


@case(
    "CUDA graphs alone without CUDA",
    REFUSED,
    "what='nothing' leaves CUDA graphs alone, and without them nothing is left: use 'denoiser' or 'blocks'.",
)
def _(_: Lab) -> None:
    compile_(tiny_pipe(), "nothing")
