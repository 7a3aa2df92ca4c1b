"""The shipped models: they load with plain diffusers, and they are as good as their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

from diff_es import zoo
from diff_es.errors import InputError
from diff_es.evaluation.fashion import fashion_judge
from diff_es.evaluation.images import generate, to_pixels
from diff_es.evaluation.quality import agreement
from diff_es.images import to_tensor
from diff_es.sampling import Requests, SamplerConfig
from diff_es.zoo.classifier_training import accuracy
from diff_es.zoo.data import DEFAULT_SOURCE, full_set
from diff_es.zoo.dit import NULL_CLASS


@pytest.fixture(scope="module")
def pipeline() -> DiTPipeline:
    return zoo.load_pipeline("fashion-dit")


@pytest.fixture(scope="module")
def classifier() -> zoo.FashionClassifier:
    return zoo.load_classifier()


def test_every_name_has_a_folder_inside_the_package():
    assert set(zoo.names()) == {"fashion-vae", "fashion-dit", "fashion-sdxl", "fashion-flux", "fashion-classifier"}
    package = Path(zoo.__file__).parent.resolve()
    for name in zoo.names():
        assert (zoo.path(name) / "config.json").is_file() or (zoo.path(name) / "model_index.json").is_file()
        assert (zoo.path(name) / "README.md").is_file()
        assert zoo.path(name).resolve().is_relative_to(package)


@pytest.mark.parametrize("name", ["fashion-dti", "../fashion-dit", "fashion-dit/../../..", "/etc", ""])
def test_only_names_of_the_catalog_are_paths(name):
    for verb, known in ((zoo.path, zoo.names()), (zoo.load_pipeline, zoo.names("pipeline"))):
        with pytest.raises(InputError, match=f"Known: {', '.join(sorted(known))}"):
            verb(name)


def test_a_near_miss_is_suggested():
    with pytest.raises(InputError, match="did you mean 'fashion-dit'"):
        zoo.path("fashion-dti")


def test_a_part_is_not_loaded_as_a_pipeline():
    with pytest.raises(InputError, match="no pipeline"):
        zoo.load_pipeline("fashion-vae")


def test_the_pipeline_is_plain_diffusers(pipeline):
    plain = DiTPipeline.from_pretrained(zoo.path("fashion-dit"))
    assert plain.transformer.dtype == plain.vae.dtype == torch.float32
    assert isinstance(plain.scheduler, DDIMScheduler)
    assert not plain.scheduler.config.clip_sample
    assert plain.get_label_ids(["trouser", "ankle boot"]) == [1, 9]
    ours, theirs = pipeline.transformer.state_dict(), plain.transformer.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_pipeline_generates_what_is_asked_for(pipeline, classifier):
    """At four steps the images are rough, and yet most must be recognised; chance is one in ten."""
    labels = torch.arange(10)
    with torch.no_grad():
        images = pipeline(
            labels.tolist(), num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images
        recognised = classifier(images * 2 - 1).argmax(1) == labels
    assert images.shape == (10, 3, 32, 32)
    assert recognised.sum() >= 6


def test_unused_label_rows_are_zero(pipeline):
    for block in pipeline.transformer.transformer_blocks:
        table = block.norm1.emb.class_embedder.embedding_table.weight
        assert table.shape[0] == NULL_CLASS + 1
        assert not table[10:NULL_CLASS].any()
        assert table[NULL_CLASS].any()
        assert table[:10].any(dim=1).all()


def test_the_autoencoder_reconstructs_and_scales_to_unit_variance():
    vae = AutoencoderKL.from_pretrained(zoo.path("fashion-vae"))
    images = to_tensor(zoo.reference_set().images[:256])
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    assert latents.shape == (256, 4, 8, 8)
    error = (decoded - images).square().mean(dim=(1, 2, 3))
    assert (10 * torch.log10(4.0 / error)).mean() >= 26.5
    assert float(latents.std()) * vae.config.scaling_factor == pytest.approx(1.0, abs=0.05)


def test_the_classifier_recognises_the_reference_images(classifier):
    assert accuracy(classifier, zoo.reference_set()) >= 0.90


def test_features_make_the_logits(classifier):
    images = to_tensor(zoo.reference_set().images[:4])
    with torch.no_grad():
        features, logits = classifier.features(images), classifier(images)
    assert features.shape == (4, 128)
    assert torch.allclose(logits, features @ classifier.head.weight.T + classifier.head.bias, atol=1e-5)


def test_the_package_stays_small():
    root = Path(zoo.__file__).parent
    assert sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) <= 60_000_000
    files = [f for folder in ("models", "data") for f in (root / folder).rglob("*") if f.is_file()]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".npz", ".md", ".txt"}


@pytest.mark.slow
@pytest.mark.parametrize(("guidance_scale", "least"), [(4.0, 0.97), (2.0, 0.92), (1.5, 0.88)])
def test_a_thousand_samples_agree_with_their_labels(pipeline, guidance_scale, least):
    """Prints the numbers of the model card: ``pytest tests/zoo --slow -k thousand -s``."""
    requests = Requests.cycle(range(10), 1000, first_seed=0)
    images = generate(pipeline, requests, SamplerConfig(20, guidance_scale), batch_size=50)
    judge = fashion_judge()
    judged = judge.look(to_pixels(images, requests.seeds))
    agrees = float(agreement(judged, torch.tensor(requests.labels)).mean())
    print(guidance_scale, agrees, judge.distances(judged))
    assert agrees >= least


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_SOURCE.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_classifier_on_the_whole_test_split(classifier):
    measured = accuracy(classifier, full_set(DEFAULT_SOURCE, "t10k"))
    print(f"accuracy on 10,000 test images: {measured:.4f}")
    assert measured >= 0.91
