"""How ``fashion-flux`` is trained: a teacher on the data, then a student on the teacher's guided images.

The teacher is a rectified flow from noise to latents, trained with caption dropout, and good in many steps with
guidance. The student starts from its weights and learns to go from each noise straight to where the guided teacher
ends: four steps without guidance are then enough.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from diffusers import FluxTransformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from diff_es.images import to_tensor
from diff_es.zoo.conditioning import ALL_CAPTIONS, CaptionTable
from diff_es.zoo.data import full_set
from diff_es.zoo.flow import PaddedCaptions, TeacherLoss, Velocity
from diff_es.zoo.flux import FluxSize, build_pipeline, build_transformer, pack
from diff_es.zoo.reflow import PairPlan, StudentLoss, make_pairs
from diff_es.zoo.text import vocabulary
from diff_es.zoo.training import LoopConfig, SaveConfig, fit
from diff_es.zoo.vae import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers import AutoencoderKL, FluxPipeline
    from torch import nn

TEACHER_FOLDER: Final = "teacher"
PAIRS_FOLDER: Final = "pairs"
_CAPTION_TOKENS: Final = 9


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How the teacher is made.

    Attributes:
        size: size of the transformer, the student's too.
        caption_dropout: share of the samples that are trained with the empty caption.
        bfloat16: train under bfloat16 autocast.
        loop: the learning plan.
    """

    size: FluxSize = field(default_factory=FluxSize)
    caption_dropout: float = 0.1
    bfloat16: bool = True
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=2400, batch_size=64, learning_rate=1e-3, warmup_steps=300, decay_steps=1200
        )
    )


@dataclass(frozen=True, kw_only=True)
class FluxRecipe:
    """How ``fashion-flux`` is made.

    Attributes:
        teacher: the first phase.
        pairs: what the teacher samples for the student.
        loop: the student's learning plan.
    """

    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    pairs: PairPlan = field(default_factory=PairPlan)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=2200, batch_size=64, learning_rate=5e-4, warmup_steps=100, decay_steps=1600, seed=1
        )
    )


@torch.no_grad()
def padded_captions(pipeline: FluxPipeline) -> PaddedCaptions:
    """Encode all training captions as the pipeline itself does, with as little padding as they allow."""
    prompts = list(ALL_CAPTIONS)
    tokens, pooled, _ = pipeline.encode_prompt(prompts, None, device="cpu", max_sequence_length=_CAPTION_TOKENS)
    ids = pipeline.tokenizer_2(prompts, padding="max_length", max_length=_CAPTION_TOKENS, return_tensors="pt").input_ids
    lengths = (ids != vocabulary()["<pad>"]).sum(1)
    assert ids.shape[1] == _CAPTION_TOKENS and int(lengths.max()) < _CAPTION_TOKENS
    return PaddedCaptions(CaptionTable(tokens, pooled), lengths)


def train_flux(
    recipe: FluxRecipe,
    vae: AutoencoderKL,
    data: Path,
    save: SaveConfig,
    on_snapshot: Callable[[FluxPipeline, int], None],
) -> FluxPipeline:
    """Train teacher and student on the training split in ``data``, encoded by ``vae``.

    Args:
        recipe: the recipe.
        vae: the trained autoencoder; becomes part of the pipeline.
        data: folder of Fashion-MNIST.
        save: the run folder and the intervals; the teacher and the pairs have folders of their own in it.
        on_snapshot: called with the pipeline so far (EMA weights) and the number of finished steps, in both phases;
            the student counts on where the teacher ended.

    Returns:
        The pipeline with the student's EMA weights after the last step.
    """
    plan = recipe.teacher
    transformer = build_transformer(plan.size, plan.loop.seed)
    captions = padded_captions(build_pipeline(transformer, vae))

    def shown(before: int) -> Callable[[nn.Module, int], None]:
        def show(ema: nn.Module, step: int) -> None:
            on_snapshot(build_pipeline(ema, vae), before + step)

        return show

    # As for fashion-dit: the backward pass of the fused attention is slow on CPU at this size.
    with sdpa_kernel(SDPBackend.MATH):
        first = replace(save, folder=save.folder / TEACHER_FOLDER, on_snapshot=shown(0))
        teacher = _train_teacher(transformer, captions, plan, _Data.read(data, vae), first)
        sampler = Velocity(teacher, captions, bfloat16=False)
        pairs = make_pairs(sampler, recipe.pairs, asdict(plan), save.folder / PAIRS_FOLDER)
        transformer.load_state_dict(teacher.state_dict())
        loss = StudentLoss(Velocity(transformer, captions, plan.bfloat16), pairs)
        student = fit(transformer, loss, len(pairs.captions), recipe, replace(save, on_snapshot=shown(plan.loop.steps)))
    return build_pipeline(student, vae)


@dataclass(frozen=True)
class _Data:
    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def read(cls, source: Path, vae: AutoencoderKL) -> _Data:
        training = full_set(source, "train")
        latents = encode(vae, to_tensor(training.images)) * vae.config.scaling_factor
        return cls(pack(latents), torch.from_numpy(training.labels))


def _train_teacher(
    transformer: FluxTransformer2DModel, captions: PaddedCaptions, recipe: TeacherRecipe, data: _Data, save: SaveConfig
) -> FluxTransformer2DModel:
    loss = TeacherLoss(
        Velocity(transformer, captions, recipe.bfloat16), data.images, data.labels, recipe.caption_dropout
    )
    teacher = fit(transformer, loss, len(data.labels), recipe, save)
    assert isinstance(teacher, FluxTransformer2DModel)
    return teacher
