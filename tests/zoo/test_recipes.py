"""The recipes: what is built, what is minimised, and the verb that runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, DiTPipeline

from diff_es import zoo
from diff_es.errors import ArtifactError, InputError
from diff_es.images import to_tensor
from diff_es.zoo.classifier import ClassifierConfig, read_classifier, save_classifier
from diff_es.zoo.classifier_training import augment
from diff_es.zoo.dit import NULL_CLASS, NoisePredictionLoss, build_scheduler, build_transformer
from diff_es.zoo.vae import build_vae, vae_loss

from .idx_files import write_idx

LOOP = zoo.LoopConfig(steps=2, batch_size=4, learning_rate=1e-3, warmup_steps=1, decay_steps=1, workers=2)
TINY = {
    "fashion-vae": zoo.VaeRecipe(channels=(8, 8, 8), loop=LOOP),
    "fashion-dit": zoo.DitRecipe(num_layers=1, num_heads=2, head_dim=4, loop=LOOP),
    "fashion-sdxl": zoo.SdxlRecipe(channels=(16, 32), transformer_layers=1, num_heads=2, loop=LOOP),
    "fashion-flux": zoo.FluxRecipe(
        teacher=zoo.TeacherRecipe(
            size=zoo.FluxSize(double_blocks=1, single_blocks=1, num_heads=2, head_dim=8), loop=LOOP
        ),
        pairs=zoo.PairPlan(count=512, steps=1),
        loop=LOOP,
    ),
    "fashion-classifier": zoo.ClassifierRecipe(model=ClassifierConfig((4, 4, 4)), loop=replace(LOOP, workers=1)),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion")
    images = zoo.calibration_set()
    for split in ("train", "t10k"):
        write_idx(folder, split, images.images[:20, 2:-2, 2:-2, 0], images.labels[:20].astype(np.uint8))
    return folder


@pytest.mark.parametrize("name", TINY)
def test_training_leaves_a_complete_loadable_model(name, source, tmp_path):
    folder = zoo.train(name, tmp_path / "run", data=source, recipe=TINY[name])
    match name:
        case "fashion-vae":
            vae = AutoencoderKL.from_pretrained(folder)
            with torch.no_grad():
                latents = vae.encode(to_tensor(zoo.calibration_set().images[:20])).latent_dist.mean
            assert float(latents.std()) * vae.config.scaling_factor == pytest.approx(1.0, rel=0.02)
        case "fashion-dit":
            pipeline = DiTPipeline.from_pretrained(folder)
            pipeline.set_progress_bar_config(disable=True)
            assert pipeline([3], num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)
        case "fashion-sdxl" | "fashion-flux":
            pipeline = DiffusionPipeline.from_pretrained(folder)
            pipeline.set_progress_bar_config(disable=True)
            size = {"height": 32, "width": 32}  # FluxPipeline has no default of its own
            images = pipeline(zoo.caption_of(3), num_inference_steps=2, output_type="np", **size).images
            assert images.shape == (1, 32, 32, 3)
        case _:
            assert read_classifier(folder)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    stamp = (tmp_path / "run" / "checkpoint.safetensors").stat().st_mtime_ns
    assert zoo.train(name, tmp_path / "run", data=source, recipe=TINY[name]) == folder
    assert (tmp_path / "run" / "checkpoint.safetensors").stat().st_mtime_ns == stamp


def test_starting_afresh_removes_only_what_training_wrote(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    recipe = TINY["fashion-classifier"]
    zoo.train("fashion-classifier", tmp_path, data=source, recipe=recipe)
    other = replace(recipe, label_smoothing=0.2)
    model = zoo.train("fashion-classifier", tmp_path, data=source, recipe=other, resume=False)
    assert model.is_dir()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_wrong_names_and_recipes_are_refused(tmp_path, source):
    with pytest.raises(InputError, match="did you mean 'fashion-vae'"):
        zoo.train("fashion-va", tmp_path)
    with pytest.raises(InputError, match="VaeRecipe"):
        zoo.train("fashion-vae", tmp_path, recipe=zoo.DitRecipe())
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        zoo.train("fashion-vae", tmp_path, data=tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_fresh_transformer_predicts_zero_and_never_drops_labels_itself():
    transformer = build_transformer(TINY["fashion-dit"]).train()
    arguments = {"timestep": torch.tensor([5, 900]), "class_labels": torch.tensor([1, NULL_CLASS])}
    assert not transformer(torch.randn(2, 4, 8, 8), **arguments).sample.any()
    torch.nn.init.normal_(transformer.proj_out_2.weight)
    torch.nn.init.normal_(transformer.transformer_blocks[0].norm1.linear.weight)
    latents = torch.randn(2, 4, 8, 8)
    outputs = [transformer(latents, **arguments).sample for _ in range(20)]
    assert all(torch.equal(outputs[0], other) for other in outputs)


def test_the_noise_loss_is_the_weighted_error_of_its_definition():
    """Oracle: a fresh transformer predicts zero, so the loss is the mean of min(SNR, cap) / SNR * noise²."""
    recipe = replace(TINY["fashion-dit"], bfloat16=False)
    loss = NoisePredictionLoss(build_transformer(recipe), torch.randn(6, 4, 8, 8), torch.arange(6), recipe)
    measured = loss(torch.arange(6), 0, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    timesteps = torch.randint(1000, (6,), generator=generator)
    noise = torch.randn(6, 4, 8, 8, generator=generator).double()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = torch.cumprod(1 - betas, 0)[timesteps]
    snr = alpha / (1 - alpha)
    expected = (torch.clamp(snr, max=5.0) / snr * noise.square().mean((1, 2, 3))).mean()
    assert float(measured.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


class RecordedInputs(torch.nn.Module):
    """Stands where the transformer is, to see what it is given."""

    def forward(self, noisy, timestep, class_labels):
        self.seen = noisy, timestep, class_labels
        return type("Output", (), {"sample": torch.zeros_like(noisy)})


def test_latents_are_noised_as_the_scheduler_does_and_labels_dropped_once_per_sample():
    recipe = replace(TINY["fashion-dit"], label_dropout=0.1)
    latents, labels, recorded = torch.randn(4000, 4, 8, 8), torch.arange(4000) % 10, RecordedInputs()
    NoisePredictionLoss(recorded, latents, labels, recipe)(torch.arange(4000), 0, torch.Generator().manual_seed(0))
    noisy, timesteps, seen = recorded.seen
    dropped = seen == NULL_CLASS
    assert 0.08 < float(dropped.float().mean()) < 0.12
    assert torch.equal(seen[~dropped], labels[~dropped])
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(timesteps, torch.randint(1000, (4000,), generator=generator))
    noise = torch.randn(latents.shape, generator=generator)
    assert torch.allclose(noisy, build_scheduler().add_noise(latents, noise, timesteps), atol=1e-6)


def test_the_autoencoder_loss_is_error_plus_weighted_divergence():
    vae = build_vae(TINY["fashion-vae"]).eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    posterior = vae.encode(images).latent_dist
    gaussian = torch.distributions.Normal(posterior.mean.double(), posterior.std.double())
    divergence = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).mean()
    decoded = vae.decode(posterior.sample(torch.Generator().manual_seed(1))).sample
    expected = (decoded - images).abs().mean() + 0.3 * divergence
    measured = vae_loss(vae, images, 0.3, torch.Generator().manual_seed(1))
    assert float(measured.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_augmentation_mirrors_and_shifts_whole_images():
    image = torch.rand(3, 32, 32)
    image[:, 0, 0] = 0.123
    out = augment(image.expand(400, 3, 32, 32), 2, torch.Generator().manual_seed(0))
    assert out.shape == (400, 3, 32, 32)
    possible = set()
    for candidate in (image, image.flip(-1)):
        padded = torch.nn.functional.pad(candidate, (2, 2, 2, 2), value=-1.0)
        possible |= {padded[:, y : y + 32, x : x + 32].numpy().tobytes() for y in range(5) for x in range(5)}
    seen = {shifted.contiguous().numpy().tobytes() for shifted in out}
    assert seen <= possible
    assert len(seen) > 40


def test_a_classifier_is_read_as_written_and_a_wrong_one_refused(tmp_path):
    model = zoo.FashionClassifier(ClassifierConfig((4, 5, 6))).eval()
    save_classifier(model, tmp_path)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(read_classifier(tmp_path)(images), model(images))
    save_classifier(zoo.FashionClassifier(ClassifierConfig((4, 5, 7))), tmp_path / ".")
    (tmp_path / "config.json").write_text('{"widths": [4, 5, 6]}')
    with pytest.raises(ArtifactError, match="do not fit"):
        read_classifier(tmp_path)
    with pytest.raises(InputError, match="widths"):
        ClassifierConfig((0, 1, 1))
