"""How the text-to-image models are trained: what is built and minimised, and that it is what the pipelines compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from diff_es import zoo
from diff_es.errors import ArtifactError, InputError
from diff_es.zoo import flux, sdxl
from diff_es.zoo.conditioning import ALL_CAPTIONS, UNCONDITIONAL_ROW
from diff_es.zoo.flow import Lines, TeacherLoss, Velocity, draw_lengths, sample, velocity_error
from diff_es.zoo.flux_training import PaddedCaptions, padded_captions
from diff_es.zoo.reflow import Pairs, StudentLoss, make_pairs
from diff_es.zoo.sdxl_training import CaptionedNoiseLoss, caption_table

SDXL = zoo.SdxlRecipe(channels=(16, 32), transformer_layers=1, num_heads=2, bfloat16=False)
SIZE = zoo.FluxSize(double_blocks=1, single_blocks=1, num_heads=2, head_dim=8)
PLAN = zoo.PairPlan(count=512, steps=1, guidance_scale=2.0)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(zoo.path("fashion-vae"))


@pytest.fixture(scope="module")
def transformer() -> nn.Module:
    """Random in every weight: the gates of a fresh one are closed."""
    model = flux.build_transformer(SIZE, seed=0)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def captions(transformer, vae) -> PaddedCaptions:
    return padded_captions(flux.build_pipeline(transformer, vae))


def test_the_unet_has_the_structure_of_sdxl():
    unet = sdxl.build_unet(zoo.SdxlRecipe())
    assert unet.config.addition_embed_type == "text_time"
    assert unet.config.use_linear_projection
    attentions = [module for name, module in unet.named_modules() if name.endswith(("attn1", "attn2"))]
    assert len(attentions) == 24
    assert {attention.heads for attention in attentions} == {8}
    assert all(type(m.net[0]).__name__ == "GEGLU" for name, m in unet.named_modules() if name.endswith(".ff"))


def test_the_noise_loss_of_captions_is_that_of_its_definition(vae):
    """Oracle: a fresh U-Net predicts zero, so the loss is the mean of min(SNR, cap) / SNR * noise²."""
    unet = sdxl.build_unet(SDXL)
    captions = caption_table(sdxl.build_pipeline(unet, vae))
    loss = CaptionedNoiseLoss(unet, torch.randn(6, 4, 8, 8), torch.arange(6), captions, SDXL)
    measured = loss(torch.arange(6), 0, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    timesteps = torch.randint(1000, (6,), generator=generator)
    noise = torch.randn(6, 4, 8, 8, generator=generator).double()
    alpha = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[timesteps]
    snr = alpha / (1 - alpha)
    expected = (torch.clamp(snr, max=5.0) / snr * noise.square().mean((1, 2, 3))).mean()
    assert float(measured.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_unet_is_trained_on_what_the_pipeline_gives_it(vae):
    """The same caption, pooled caption and sizes; the empty caption is what guidance leads away from."""
    unet = sdxl.build_unet(SDXL)
    pipeline = sdxl.build_pipeline(unet, vae)
    seen: list[dict] = []
    handle = unet.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    pipeline(ALL_CAPTIONS[7], num_inference_steps=1, guidance_scale=4.0, output_type="latent")
    table = caption_table(pipeline)
    recipe = replace(SDXL, caption_dropout=1.0)
    CaptionedNoiseLoss(unet, torch.zeros(1, 4, 8, 8), torch.zeros(1, dtype=int), table, recipe)(
        torch.zeros(1, dtype=int), 0, torch.Generator()
    )
    handle.remove()
    sampled, trained = seen
    for given, wanted in (
        (sampled["encoder_hidden_states"], table.tokens[[UNCONDITIONAL_ROW, 7]]),
        (sampled["added_cond_kwargs"]["text_embeds"], table.pooled[[UNCONDITIONAL_ROW, 7]]),
        (sampled["encoder_hidden_states"][:1], trained["encoder_hidden_states"]),
        (sampled["added_cond_kwargs"]["time_ids"][:1], trained["added_cond_kwargs"]["time_ids"]),
    ):
        assert torch.allclose(given, wanted, atol=1e-5)


@pytest.mark.parametrize("row", [0, 4, 47, UNCONDITIONAL_ROW])
@pytest.mark.parametrize("length", [16, 61, 512])
def test_one_biased_padding_token_acts_like_all_of_them(transformer, captions, vae, row, length):
    """Oracle: the transformer on the prompt as the pipeline pads it, without any mask."""
    tokens, times = torch.randn(1, 16, 16), torch.tensor([0.7])
    pipeline = flux.build_pipeline(transformer, vae)
    with torch.no_grad():
        measured = Velocity(transformer, captions, bfloat16=False)(
            tokens, times, torch.tensor([row]), torch.tensor([float(length)])
        )
        text, pooled, text_ids = pipeline.encode_prompt(ALL_CAPTIONS[row], None, max_sequence_length=length)
        expected = transformer(
            hidden_states=tokens,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=times,
            img_ids=flux.positions(),
            txt_ids=text_ids,
        ).sample
    assert torch.allclose(measured, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_our_euler_steps_are_those_of_the_pipeline(transformer, captions, vae):
    noise, rows = torch.randn(2, 16, 16), torch.tensor([3, 20])
    ours = sample(Velocity(transformer, captions, bfloat16=False), noise, rows, steps=3, guidance_scale=2.0)
    theirs = flux.build_pipeline(transformer, vae)(
        [ALL_CAPTIONS[row] for row in rows],
        negative_prompt=["", ""],
        true_cfg_scale=2.0,
        num_inference_steps=3,
        latents=noise,
        max_sequence_length=64,
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_the_velocity_leads_from_image_to_noise(captions):
    """Oracle: a fresh transformer predicts zero, so the loss is the mean square of noise minus image."""
    fresh = Velocity(flux.build_transformer(SIZE, seed=0), captions, bfloat16=False)
    images, noise = torch.randn(5, 16, 16), torch.randn(5, 16, 16)
    lines = Lines(images, noise, torch.linspace(0, 1, 5), torch.arange(5))
    assert torch.equal(lines.points()[0], images[0])
    assert torch.allclose(lines.points()[4], noise[4])
    expected = (noise - images).square().mean()
    assert torch.allclose(velocity_error(fresh, lines, torch.Generator()), expected)
    student = StudentLoss(fresh, Pairs(noise, images, torch.arange(5)))
    assert torch.allclose(student(torch.arange(5), 0, torch.Generator()), expected)
    teacher = TeacherLoss(fresh, images, torch.arange(5), caption_dropout=0.1)
    assert 1.0 < float(teacher(torch.arange(5), 0, torch.Generator()).detach()) < 3.0


def test_prompt_lengths_cover_what_the_pipeline_allows():
    lengths = draw_lengths(4000, torch.Generator().manual_seed(0))
    assert torch.equal(lengths, lengths.round())
    assert lengths.min() == 16
    assert lengths.max() > 500
    assert lengths.max() <= 512


def test_latents_are_packed_so_that_the_pipeline_unpacks_them(transformer, vae):
    latents = torch.randn(3, 4, 8, 8)
    unpacked = flux.build_pipeline(transformer, vae)._unpack_latents(flux.pack(latents), 32, 32, 4)
    assert torch.equal(unpacked, latents)


def test_pairs_are_made_once_and_belong_to_their_teacher(transformer, captions, tmp_path):
    teacher = Velocity(transformer, captions, bfloat16=False)
    first = make_pairs(teacher, PLAN, {"seed": 0}, tmp_path)
    assert first.images.shape == first.noise.shape == (512, 16, 16)
    assert float(first.noise.std()) == pytest.approx(1.0, abs=0.02)
    shard = tmp_path / "0000.safetensors"
    stamp = shard.stat().st_mtime_ns
    again = make_pairs(teacher, PLAN, {"seed": 0}, tmp_path)
    assert shard.stat().st_mtime_ns == stamp
    assert torch.equal(again.images, first.images)
    with pytest.raises(InputError, match="another teacher or plan"):
        make_pairs(teacher, PLAN, {"seed": 1}, tmp_path)
    shard.write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="not a file of pairs"):
        make_pairs(teacher, PLAN, {"seed": 0}, tmp_path)


@pytest.mark.parametrize(("kind", "arguments"), [(zoo.PairPlan, {"count": 500}), (zoo.FluxSize, {"head_dim": 6})])
def test_impossible_plans_are_refused(kind, arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        kind(**arguments)
