"""A classifier as judge: what it sees of an image, whatever the batch; the shipped one knows the shipped images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diff_es import zoo
from diff_es.errors import InputError
from diff_es.evaluation import ImageClassifier, Judge, classifier_judge, look_at
from diff_es.evaluation.classifier import NAMES
from diff_es.zoo.classifier import FashionClassifier


class ChannelClassifier(nn.Module):
    """Features are the quarter means of all channels; a logit is the mean of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        return features.view(-1, 3, 4).mean(dim=2)


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 8, 8, 3), generator=generator).to(torch.uint8)


def quarter_means(images: Tensor) -> np.ndarray:
    """By hand: channel, then row, then column of the quarter, of pixels in [-1, 1]."""
    unit = images.numpy().astype(np.float64) / 255 * 2 - 1
    quarters = unit.reshape(len(images), 2, 4, 2, 4, 3).mean(axis=(2, 4))
    return quarters.transpose(0, 3, 1, 2).reshape(len(images), 12)


def judge_of(classifier: ImageClassifier, reference: Tensor) -> Judge:
    return classifier_judge(classifier, reference, reference_name="noise", version="test 1", weights="ab12")


def test_it_looks_at_images_as_the_models_make_them() -> None:
    images = pixels(10)
    judged = look_at(ChannelClassifier().eval(), images)
    expected = quarter_means(images)
    np.testing.assert_allclose(judged.features.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(judged.logits.numpy(), expected.reshape(10, 3, 4).mean(axis=2), atol=1e-6)
    assert not judged.features.requires_grad


def test_black_is_minus_one_and_white_is_one() -> None:
    classifier = ChannelClassifier().eval()
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    images[1] = 255
    look_at(classifier, images)
    (seen,) = classifier.seen
    assert seen.shape == (2, 3, 8, 8) and seen.dtype == torch.float32
    assert bool((seen[0] == -1).all()) and bool((seen[1] == 1).all())


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_batches_change_nothing(size: int) -> None:
    classifier, images = ChannelClassifier().eval(), pixels(10)
    judged = look_at(classifier, images, batch_size=size)
    assert max(len(batch) for batch in classifier.seen) == min(size, 10)
    whole = look_at(classifier, images)
    torch.testing.assert_close(judged.features, whole.features, rtol=0, atol=1e-6)
    torch.testing.assert_close(judged.logits, whole.logits, rtol=0, atol=1e-6)


def test_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"training mode; call classifier\.eval\(\) first"):
        judge_of(ChannelClassifier().train(), pixels(5))


@pytest.mark.parametrize(
    "wrong",
    [
        pixels(4).float(),
        pixels(4).to(torch.int64),
        pixels(4).permute(0, 3, 1, 2),
        pixels(4)[0],
        pixels(4)[..., :1],
    ],
    ids=["float", "int64", "channels first", "one image", "grey"],
)
def test_other_images_are_refused(wrong: Tensor) -> None:
    with pytest.raises(InputError, match=r"images must be uint8 \(N, H, W, 3\), got torch\."):
        look_at(ChannelClassifier().eval(), wrong)


def test_the_judge_knows_its_real_images_and_its_names() -> None:
    reference = pixels(40, seed=1)
    judge = judge_of(ChannelClassifier().eval(), reference)
    expected = quarter_means(reference)
    assert judge.reference is not None
    np.testing.assert_allclose(judge.reference.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(judge.gaussian.mean.numpy(), expected.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(judge.gaussian.covariance.numpy(), np.cov(expected, rowvar=False), atol=1e-7)
    assert (judge.reference_name, judge.version, judge.weights) == ("noise", "test 1", "ab12")
    assert judge.names == NAMES and all(name.startswith("classifier_") for name in NAMES), "never FID"
    assert judge.knows_labels and judge.splits == 1
    torch.testing.assert_close(judge.look(reference[:7]).features, judge.reference[:7])


def test_the_classifier_of_the_zoo_is_one() -> None:
    classifier = FashionClassifier().eval()
    images = torch.randint(0, 256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    judged = look_at(classifier, images)
    assert judged.features.shape == (6, 128) and judged.logits.shape == (6, 10)
    direct = classifier(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    torch.testing.assert_close(judged.logits, direct.detach(), rtol=1e-4, atol=1e-5)


def test_the_shipped_classifier_knows_the_shipped_test_images() -> None:
    """It would not, if the images reached it in another range or order than those that it was trained on."""
    test = zoo.reference_set()
    judged = look_at(zoo.load_classifier(), torch.from_numpy(test.images[:300]))
    right = judged.logits.argmax(dim=1).numpy() == test.labels[:300]
    assert right.mean() > 0.88
